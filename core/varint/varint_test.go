package varint

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// values lie around every power of two, so around every length.
func values() []uint64 {
	vs := []uint64{0}
	for i := range 64 {
		p := uint64(1) << i
		vs = append(vs, p-1, p, p+1, ^p, p*0x5555)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		vs = append(vs, rng.Uint64()>>rng.IntN(64))
	}
	return vs
}

func TestAppendIsThatOfBinary(t *testing.T) {
	for _, v := range values() {
		for _, head := range [][]byte{nil, {1, 2, 3}, make([]byte, 5, 7), make([]byte, 5, 64)} {
			if got, want := Append(bytes.Clone(head), v), binary.AppendUvarint(bytes.Clone(head), v); !bytes.Equal(got, want) {
				t.Fatalf("%d after %d bytes: %x, want %x", v, len(head), got, want)
			}
			if got, want := AppendSigned(bytes.Clone(head), int64(v)), binary.AppendVarint(bytes.Clone(head), int64(v)); !bytes.Equal(got, want) {
				t.Fatalf("%d after %d bytes: %x, want %x", int64(v), len(head), got, want)
			}
		}
	}
}

// check reads b as binary does.
func check(t *testing.T, b []byte) {
	t.Helper()
	v, n := Read(b)
	if wantV, wantN := binary.Uvarint(b); v != wantV || n != wantN {
		t.Fatalf("%x: %d of %d bytes, want %d of %d", b, v, n, wantV, wantN)
	}
}

func TestReadIsThatOfBinary(t *testing.T) {
	for _, v := range values() {
		whole := binary.AppendUvarint(nil, v)
		for n := range len(whole) + 1 {
			check(t, whole[:n])
		}
		for _, more := range []int{1, 7, 20} {
			check(t, append(bytes.Clone(whole), make([]byte, more)...))
			check(t, append(bytes.Clone(whole), bytes.Repeat([]byte{0xff}, more)...))
		}
		check(t, append(bytes.Repeat([]byte{0x80}, int(v%12)), whole...)) // zeros that need not be there
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{0x80, 1})
	f.Add(bytes.Repeat([]byte{0xff}, 10))
	f.Fuzz(func(t *testing.T, b []byte) { check(t, b) })
}

func BenchmarkRead(b *testing.B) {
	long := Append(nil, 1_760_000_000_000<<1)
	long = append(long, make([]byte, 8)...)
	b.Run("here", func(b *testing.B) {
		for b.Loop() {
			Read(long)
		}
	})
	b.Run("binary", func(b *testing.B) {
		for b.Loop() {
			binary.Uvarint(long)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	buf := make([]byte, 0, 64)
	b.Run("here", func(b *testing.B) {
		for b.Loop() {
			Append(buf, 1_760_000_000_000<<1)
		}
	})
	b.Run("binary", func(b *testing.B) {
		for b.Loop() {
			binary.AppendUvarint(buf, 1_760_000_000_000<<1)
		}
	})
}

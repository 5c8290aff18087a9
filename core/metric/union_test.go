package metric

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// A union of sketches of every form, in either way of merging, is what a Sketch of all their hashes is.
func TestAUnionIsAnySketch(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	var u, copied Union
	var one Sketch
	for _, n := range sizes {
		for _, m := range sizes {
			a, b := hashes(rng, n), hashes(rng, m)
			b = append(b, a[:n/3]...)
			want, estimate := naive(slices.Concat(a, b)), set(a, b).Estimate()
			for way := range 3 {
				u.Reset()
				if !u.Empty() {
					t.Fatal("an empty union is not empty")
				}
				for i, part := range [][]uint64{a, b} {
					var err error
					switch {
					case way == 0 || way == 1 && i == 0:
						err = u.MergeBinary(naive(part), &one)
					case way == 1:
						u.Merge(set(part))
					default:
						var other Union
						other.Merge(set(part))
						u.MergeUnion(&other)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if got := u.Sketch().AppendBinary(nil); !bytes.Equal(got, want) || !bytes.Equal(u.AppendBinary(nil), want) {
					t.Fatalf("%d and %d hashes, way %d: other bytes", n, m, way)
				}
				if got := u.Estimate(); got != estimate || u.Sketch().Estimate() != estimate {
					t.Fatalf("%d and %d hashes, way %d: %d, want %d", n, m, way, got, estimate)
				}
			}
			var left, right Union
			left.Merge(set(a))
			right.Merge(set(b))
			if got := left.EstimateWith(&right); got != estimate || left.Estimate() != set(a).Estimate() {
				t.Fatalf("%d and %d hashes: %d of both, want %d", n, m, got, estimate)
			}
			copied.Copy(&u)
			grown := copied.Sketch()
			grown.Add(1)
			copied.Merge(grown)
			if !bytes.Equal(u.Sketch().AppendBinary(nil), want) || !bytes.Equal(copied.Sketch().AppendBinary(nil), naive(append(slices.Concat(a, b), 1))) {
				t.Fatalf("%d and %d hashes: a copy is not of its own", n, m)
			}
		}
	}
}

// A union takes the bytes that a Sketch takes, and no others.
func FuzzUnion(f *testing.F) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{0, 3, 99, 100, 2000, 7000} {
		f.Add(set(hashes(rng, n)).AppendBinary(nil))
	}
	f.Add(append(binary.AppendUvarint([]byte{formSparse}, 2), 0x80, 0x01, 1, 0, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, one Sketch
		var u Union
		err, errUnion := s.UnmarshalBinary(b), u.MergeBinary(b, &one)
		if (err == nil) != (errUnion == nil) {
			t.Fatalf("a sketch says %v, a union %v", err, errUnion)
		}
		if err == nil && !bytes.Equal(u.Sketch().AppendBinary(nil), s.AppendBinary(nil)) {
			t.Fatal("a union has other bytes than a sketch")
		}
	})
}

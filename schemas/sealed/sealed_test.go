package sealed

import (
	"bytes"
	"testing"
)

type thing struct {
	Name string
	N    []int
}

func TestEveryByteIsCovered(t *testing.T) {
	data, err := Marshal(thing{"a<b", []int{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	var back thing
	if digest, err := Unmarshal(data, &back); err != nil || len(digest) != 64 || back.Name != "a<b" || len(back.N) != 2 {
		t.Fatalf("%+v, %s, %v", back, digest, err)
	}
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if _, err := Unmarshal(bad, &thing{}); err == nil {
				t.Errorf("byte %d, bit %d: taken", i, bit)
			}
		}
		if _, err := Unmarshal(data[:i], &thing{}); err == nil {
			t.Errorf("cut to %d bytes: taken", i)
		}
	}
	if _, err := Unmarshal(append(bytes.Clone(data), '\n'), &thing{}); err == nil {
		t.Error("a byte more: taken")
	}
	if _, err := Unmarshal(data, &struct{ Name string }{}); err == nil {
		t.Error("a field that is not known: taken")
	}
}

func FuzzUnmarshal(f *testing.F) {
	data, err := Marshal(thing{"x", nil})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(head))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v thing
		if _, err := Unmarshal(data, &v); err != nil {
			return
		}
		if _, err := Marshal(v); err != nil {
			t.Fatal(err)
		}
	})
}

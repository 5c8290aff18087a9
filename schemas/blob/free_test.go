package blob

import (
	"errors"
	"fmt"
	"testing"
)

// unread is a store that refuses to open what it holds.
type unread struct {
	*Mem
	err error
}

func (u unread) Open(name string) (Reader, error) {
	if u.err != nil {
		return nil, u.err
	}
	return u.Mem.Open(name)
}

// What cannot be read may have the very bytes: it is not gone past, or a writer that begins again would come to another name.
func TestCreateFreeDoesNotPassOverWhatItCannotRead(t *testing.T) {
	names := func(n int) string { return fmt.Sprint("f/", n) }
	s := unread{NewMem(), nil}
	if err := s.Create("f/0", []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.err = errors.New("timed out")
	if name, _, err := CreateFree(s, names, 0, []byte("x")); !errors.Is(err, s.err) {
		t.Errorf("%q, %v", name, err)
	}
	s.err = nil
	if name, n, err := CreateFree(s, names, 0, []byte("x")); name != "f/0" || n != 1 || err != nil {
		t.Errorf("%q, %d, %v", name, n, err)
	}
}

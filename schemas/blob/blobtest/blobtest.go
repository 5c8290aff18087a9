// Package blobtest is the conformance suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/schemas/blob"
)

// Run checks that the stores that open returns, a new and empty one at each call, keep the contract of blob.Store.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	tests := []struct {
		name string
		run  func(t *testing.T, s blob.Store)
	}{
		{"create and read", createAndRead},
		{"create only", createOnly},
		{"create free", createFree},
		{"in pieces", inPieces},
		{"caller's bytes", callersBytes},
		{"missing", missing},
		{"open", openReader},
		{"created", created},
		{"list", list},
		{"delete", deleteObject},
		{"bad names", badNames},
		{"good names", goodNames},
		{"folders", folders},
		{"too large", tooLarge},
		{"concurrent creators", concurrentCreators},
		{"never in part", neverInPart},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func mustCreate(t *testing.T, s blob.Store, name string, data string) {
	t.Helper()
	if err := s.Create(name, []byte(data)); err != nil {
		t.Fatalf("Create(%q): %v", name, err)
	}
}

func mustHold(t *testing.T, s blob.Store, name string, want string) {
	t.Helper()
	got, err := s.Get(name)
	if err != nil {
		t.Fatalf("Get(%q): %v", name, err)
	}
	if string(got) != want {
		t.Fatalf("Get(%q) = %q, want %q", name, got, want)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func createAndRead(t *testing.T, s blob.Store) {
	for name, data := range map[string]string{
		"a":                      "x",
		"deep/er/than/one":       "\x00\xff",
		"empty":                  "",
		"tenant=a/dt=2026-01-01": strings.Repeat("long ", 100_000),
	} {
		mustCreate(t, s, name, data)
		mustHold(t, s, name, data)
	}
}

func created(t *testing.T, s blob.Store) {
	_, err := s.Created("a/b")
	wantErr(t, "Created of a name that is free", err, blob.ErrNotFound)
	before := time.Now().Add(-2 * time.Second) // the storage may tell whole seconds
	mustCreate(t, s, "a/b", "x")
	_, err = s.Created("a")
	wantErr(t, "Created of a folder", err, blob.ErrNotFound)
	_, err = s.Created("../a")
	wantErr(t, "Created of a bad name", err, blob.ErrName)
	first, err := s.Created("a/b")
	if err != nil || first.Before(before) || first.After(time.Now().Add(2*time.Second)) {
		t.Errorf("created at %s, %v; it is %s", first, err, time.Now())
	}
	wantErr(t, "Create again", s.Create("a/b", []byte("y")), blob.ErrExists)
	if again, err := s.Created("a/b"); err != nil || !again.Equal(first) {
		t.Errorf("created at %s, and asked again at %s, %v", first, again, err)
	}
}

func createOnly(t *testing.T, s blob.Store) {
	mustCreate(t, s, "a/b", "first")
	wantErr(t, "other bytes", s.Create("a/b", []byte("second")), blob.ErrExists)
	wantErr(t, "equal bytes", s.Create("a/b", []byte("first")), blob.ErrExists)
	mustHold(t, s, "a/b", "first")
}

func createFree(t *testing.T, s blob.Store) {
	names := func(n int) string { return fmt.Sprint("f/", n) }
	create := func(from int, data, want string, next int) {
		t.Helper()
		name, n, err := blob.CreateFree(s, names, from, []byte(data))
		if err != nil || name != want || n != next {
			t.Fatalf("CreateFree(%d, %d bytes) = %q, %d, %v, want %q, %d", from, len(data), name, n, err, want, next)
		}
		mustHold(t, s, name, data)
	}
	large := strings.Repeat("x", 1<<20) // more than a piece, and the last byte tells
	create(0, large+"a", "f/0", 1)
	create(0, large+"b", "f/1", 2)
	create(0, large+"b", "f/1", 2)
	create(0, large+"a", "f/0", 1)
	create(1, large+"a", "f/2", 3)
	create(0, "", "f/3", 4)
	create(0, "", "f/3", 4)
	one := func(int) string { return "f/0" }
	if name, _, err := blob.CreateFree(s, one, 0, []byte("y")); name != "f/0" || !errors.Is(err, blob.ErrExists) {
		t.Errorf("CreateFree where all names are taken = %q, %v", name, err)
	}
}

// inPieces is around the sizes where an object's first and last piece are full (a MiB, the head included).
func inPieces(t *testing.T, s blob.Store) {
	const head, piece = 14, 1 << 20
	all := make([]byte, 3*piece)
	for i := range all {
		all[i] = byte(i ^ i>>8 ^ i>>16)
	}
	create := func(name string, size, each int) error {
		return blob.CreateInPieces(s, name, head, size, func(w io.Writer) ([]byte, error) {
			for at := head; at < head+size; at += each {
				part := bytes.Clone(all[at:min(at+each, head+size)])
				if n, err := w.Write(part); n != len(part) || err != nil {
					return nil, fmt.Errorf("%d of %d bytes, %w", n, len(part), err)
				}
				clear(part) // it is the caller's again
			}
			return all[:head], nil
		})
	}
	for _, size := range []int{0, 1, piece - head - 1, piece - head, piece - head + 1, 2*piece - head - 1, 2*piece - head, 2*piece - head + 1, 2*piece + 5} {
		for _, each := range []int{64 << 10, piece, 3*piece - head, 4099} {
			name := fmt.Sprintf("p/%d-%d", size, each)
			if err := create(name, size, each); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got, err := s.Get(name); err != nil || !bytes.Equal(got, all[:head+size]) {
				t.Fatalf("%s: %d bytes, which differ, %v", name, len(got), err)
			}
		}
	}
	wantErr(t, "again", create("p/0-4099", 5, 5), blob.ErrExists)
	wantErr(t, "a bad name", create("/p", 5, 5), blob.ErrName)
	broken := errors.New("broken")
	for _, size := range []int{0, 3 * piece} {
		err := blob.CreateInPieces(s, "q/r", head, size, func(w io.Writer) ([]byte, error) {
			if _, err := w.Write(all[:size]); err != nil {
				return nil, err
			}
			return nil, broken
		})
		wantErr(t, "fill fails", err, broken)
		if _, err := s.Get("q/r"); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("what fill did not end is there: %v", err)
		}
	}
	if names, err := s.List("q/"); err != nil || len(names) > 0 {
		t.Errorf("listed is %v, %v", names, err)
	}
}

func callersBytes(t *testing.T, s blob.Store) {
	data := []byte("abc")
	if err := s.Create("a", data); err != nil {
		t.Fatal(err)
	}
	data[0] = 'X'
	mustHold(t, s, "a", "abc")
	got, err := s.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	got[0] = 'Y'
	mustHold(t, s, "a", "abc")
}

func missing(t *testing.T, s blob.Store) {
	mustCreate(t, s, "a/b", "x")
	for _, name := range []string{"b", "a", "a/c", "a/b/c", "c/d/e"} {
		_, err := s.Get(name)
		wantErr(t, "Get "+name, err, blob.ErrNotFound)
		_, err = s.Open(name)
		wantErr(t, "Open "+name, err, blob.ErrNotFound)
		if err := s.Delete(name); err != nil {
			t.Errorf("Delete(%q) of a missing object: %v", name, err)
		}
	}
	mustHold(t, s, "a/b", "x")
}

func openReader(t *testing.T, s blob.Store) {
	mustCreate(t, s, "a", "0123456789")
	r, err := s.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Size() != 10 {
		t.Errorf("Size() = %d, want 10", r.Size())
	}
	buf := make([]byte, 4)
	if n, err := r.ReadAt(buf, 3); n != 4 || err != nil || string(buf) != "3456" {
		t.Errorf("ReadAt(3) = %d, %v, %q", n, err, buf)
	}
	if n, err := r.ReadAt(buf, 8); n != 2 || err != io.EOF || string(buf[:n]) != "89" {
		t.Errorf("ReadAt(8) = %d, %v, %q", n, err, buf[:n])
	}
	if err := s.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadAt(buf, 0); n != 4 || err != nil || string(buf) != "0123" {
		t.Errorf("ReadAt after Delete = %d, %v, %q", n, err, buf)
	}
}

func list(t *testing.T, s blob.Store) {
	got, err := s.List("")
	if err != nil || len(got) != 0 {
		t.Fatalf("List of an empty store = %q, %v", got, err)
	}
	// '-' and '.' sort before '/': the order is that of whole names, not of folders.
	all := []string{"a-b/x", "a.b", "a/1", "a/10", "a/2/deep", "ab/1", "b"}
	for _, name := range all {
		mustCreate(t, s, name, name)
	}
	for prefix, want := range map[string][]string{
		"":        all,
		"a":       {"a-b/x", "a.b", "a/1", "a/10", "a/2/deep", "ab/1"},
		"a/":      {"a/1", "a/10", "a/2/deep"},
		"a/1":     {"a/1", "a/10"},
		"a/2/":    {"a/2/deep"},
		"a/1/":    {},
		"c":       {},
		"c/d/e":   {},
		"ab/1":    {"ab/1"},
		"ab/1/2/": {},
	} {
		got, err := s.List(prefix)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("List(%q) = %q, %v; want %q", prefix, got, err, want)
		}
	}
}

func deleteObject(t *testing.T, s blob.Store) {
	mustCreate(t, s, "a/b", "first")
	if err := s.Delete("a/b"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get("a/b")
	wantErr(t, "Get after Delete", err, blob.ErrNotFound)
	if names, err := s.List(""); err != nil || len(names) != 0 {
		t.Errorf("List after Delete = %q, %v", names, err)
	}
	mustCreate(t, s, "a/b", "second")
	mustHold(t, s, "a/b", "second")
}

func badNames(t *testing.T, s blob.Store) {
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "a/./b", ".tmp/x", "a/.hidden", "a b", "a\\b", "a\x00b",
		"ü", "a:b", "a*", "~", "a\n", strings.Repeat("a", blob.MaxPartBytes+1), strings.Repeat("a/", blob.MaxNameBytes/2) + "aa",
	} {
		wantErr(t, fmt.Sprintf("Create(%q)", name), s.Create(name, nil), blob.ErrName)
		_, err := s.Get(name)
		wantErr(t, fmt.Sprintf("Get(%q)", name), err, blob.ErrName)
		_, err = s.Open(name)
		wantErr(t, fmt.Sprintf("Open(%q)", name), err, blob.ErrName)
		wantErr(t, fmt.Sprintf("Delete(%q)", name), s.Delete(name), blob.ErrName)
	}
	for _, prefix := range []string{"/", "..", "../", "a/../", "a//", ".tmp", ".tmp/", "a/."} {
		_, err := s.List(prefix)
		wantErr(t, fmt.Sprintf("List(%q)", prefix), err, blob.ErrName)
	}
	if names, err := s.List(""); err != nil || len(names) != 0 {
		t.Errorf("after refused names the store holds %q, %v", names, err)
	}
}

func goodNames(t *testing.T, s blob.Store) {
	for _, name := range []string{
		"A.b_c=d-9", "a/b..c/d.", "--", "=", "_", strings.Repeat("a", blob.MaxPartBytes), strings.Repeat("a/", blob.MaxNameBytes/2-1) + "aa",
	} {
		mustCreate(t, s, name, "x")
		mustHold(t, s, name, "x")
	}
}

func folders(t *testing.T, s blob.Store) {
	mustCreate(t, s, "a/b", "x")
	wantErr(t, "object over a folder", s.Create("a", nil), blob.ErrFolder)
	wantErr(t, "folder over an object", s.Create("a/b/c", nil), blob.ErrFolder)
	wantErr(t, "deep folder over an object", s.Create("a/b/c/d/e", nil), blob.ErrFolder)
	if names, err := s.List(""); err != nil || !slices.Equal(names, []string{"a/b"}) {
		t.Errorf("List = %q, %v", names, err)
	}
}

func tooLarge(t *testing.T, s blob.Store) {
	// The pages of this slice are never touched, so the test needs no memory for it.
	wantErr(t, "one byte too many", s.Create("a", make([]byte, blob.MaxObjectBytes+1)), blob.ErrTooLarge)
	err := blob.CreateInPieces(s, "a", 14, 0, func(w io.Writer) ([]byte, error) {
		_, err := w.Write(make([]byte, blob.MaxObjectBytes-13))
		return nil, err
	})
	wantErr(t, "one byte too many, in pieces", err, blob.ErrTooLarge)
	if names, err := s.List(""); err != nil || len(names) != 0 {
		t.Errorf("List = %q, %v", names, err)
	}
}

func concurrentCreators(t *testing.T, s blob.Store) {
	const creators, rounds = 8, 10
	for round := range rounds {
		name := fmt.Sprintf("claims/new=%d/claim", round)
		errs := make([]error, creators)
		var wg sync.WaitGroup
		for i := range creators {
			wg.Go(func() { errs[i] = s.Create(name, fmt.Appendf(nil, "creator %d", i)) })
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("%s: creators %d and %d both won", name, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, blob.ErrExists):
				t.Fatalf("%s: creator %d: %v", name, i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("%s: nobody won", name)
		}
		mustHold(t, s, name, fmt.Sprintf("creator %d", winner))
	}
}

func neverInPart(t *testing.T, s blob.Store) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	done := make(chan error, 1)
	go func() { done <- s.Create("a/big", data) }()
	for {
		names, err := s.List("")
		if err != nil {
			t.Fatal(err)
		}
		if len(names) > 1 || len(names) == 1 && names[0] != "a/big" {
			t.Fatalf("List shows %q", names)
		}
		got, err := s.Get("a/big")
		if err == nil {
			if !bytes.Equal(got, data) {
				t.Fatalf("Get gave %d of %d bytes", len(got), len(data))
			}
			break
		}
		wantErr(t, "Get while it is written", err, blob.ErrNotFound)
		if t.Failed() {
			break
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			done <- nil
		default:
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

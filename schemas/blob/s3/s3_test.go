package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/schemas/blob"
	"tandem/schemas/blob/blobtest"
	"tandem/scripts/devstack"
)

// The credentials are those of all tests, so that these can run side by side.
func TestMain(m *testing.M) {
	for name, value := range blobtest.Credentials {
		os.Setenv(name, value)
	}
	os.Exit(m.Run())
}

func mustOpen(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(url)
	if err != nil {
		t.Fatal(err)
	}
	s.wait = time.Millisecond
	return s
}

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return mustOpen(t, blobtest.S3(t, nil)) })
}

// TestPrefixesAreApart: what one prefix holds is not in another, and neither is what is no object of this store.
func TestPrefixesAreApart(t *testing.T) {
	url := blobtest.S3(t, nil)
	a := mustOpen(t, url)
	b := mustOpen(t, strings.Replace(url, "some/prefix", "some/prefix2", 1))
	whole := mustOpen(t, strings.Replace(url, "/some/prefix", "", 1))
	for _, s := range []*Store{a, b} {
		if err := s.Create("x/1", []byte(s.prefix)); err != nil {
			t.Fatal(err)
		}
	}
	for s, want := range map[*Store][]string{a: {"x/1"}, b: {"x/1"}, whole: {"some/prefix/x/1", "some/prefix2/x/1"}} {
		if names, err := s.List(""); err != nil || !slices.Equal(names, want) {
			t.Errorf("%q: %q, %v; want %q", s.prefix, names, err, want)
		}
	}
	if data, err := b.Get("x/1"); err != nil || string(data) != "some/prefix2/" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestListOfManyPages(t *testing.T) {
	s := mustOpen(t, blobtest.S3(t, nil))
	var want []string
	for i := range 2*pageKeys + 1 {
		name := fmt.Sprintf("a/%05d", i)
		if err := s.put(name, nil); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	for _, n := range []int{2*pageKeys + 1, 2 * pageKeys, pageKeys, pageKeys - 1} {
		for len(want) > n {
			if err := s.Delete(want[len(want)-1]); err != nil {
				t.Fatal(err)
			}
			want = want[:len(want)-1]
		}
		if names, err := s.List("a/"); err != nil || !slices.Equal(names, want) {
			t.Errorf("%d names, %v; want %d", len(names), err, n)
		}
	}
}

// TestLargeObject: blocks, and what a reader does once the object is gone.
func TestLargeObject(t *testing.T) {
	var gets atomic.Int64
	s := mustOpen(t, blobtest.S3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/big") {
				gets.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	}))
	data := make([]byte, (keptBlocks+4)*blockBytes+12345) // beyond the size at which the library would upload in parts
	for i := range data {
		data[i] = byte(i * 31 >> 8)
	}
	if err := s.Create("big", data); err != nil {
		t.Fatal(err)
	}
	if err := s.Create("big", data); !errors.Is(err, blob.ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	if got, err := s.Get("big"); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("Get: %d bytes, %v", len(got), err)
	}
	gets.Store(0)
	r, err := s.Open("big")
	if err != nil {
		t.Fatal(err)
	}
	if n := gets.Load(); n != 0 {
		t.Errorf("opening read %d blocks", n)
	}
	for _, c := range []struct{ at, n int64 }{{0, 10}, {blockBytes - 5, 10}, {blockBytes*3 + 1, 2 * blockBytes}, {r.Size() - 7, 7}, {100, 1}} {
		buf := make([]byte, c.n)
		if n, err := r.ReadAt(buf, c.at); err != nil || !bytes.Equal(buf, data[c.at:c.at+c.n]) {
			t.Errorf("ReadAt %d: %d, %v", c.at, n, err)
		}
	}
	if n := gets.Load(); n != 6 {
		t.Errorf("%d blocks were fetched, want 0, 1, 3, 4, 5 and the last once each", n)
	}
	if n, err := r.ReadAt(make([]byte, 8), r.Size()-7); n != 7 || err != io.EOF {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
	if n, err := r.ReadAt(nil, 5); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			buf := make([]byte, blockBytes/2)
			for i := range 20 {
				at := int64(worker*7+i*13) * blockBytes / 16
				at %= r.Size() - int64(len(buf))
				if _, err := r.ReadAt(buf, at); err != nil || !bytes.Equal(buf, data[at:at+int64(len(buf))]) {
					t.Errorf("ReadAt %d by many: %v", at, err)
				}
			}
		})
	}
	wg.Wait()
	one := make([]byte, 1)
	if _, err := r.ReadAt(one, 5*blockBytes); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("big"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(one, 5*blockBytes); err != nil || one[0] != data[5*blockBytes] {
		t.Errorf("what it holds, after Delete: %v", err)
	}
	if err := s.Create("big", bytes.Repeat([]byte{1}, len(data))); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for at := int64(0); at < r.Size(); at += blockBytes {
		if _, err := r.ReadAt(one, at); err != nil {
			lost++
		} else if one[0] != data[at] {
			t.Fatalf("byte %d is another object's", at)
		}
	}
	if lost == 0 {
		t.Error("no block of the deleted object is lost: it was not read in blocks")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.ReadAt(one, 0); err == nil {
		t.Error("a closed reader reads")
	}
}

// faulty lets requests fail: the next ones as listed, each once.
type faulty struct {
	http.RoundTripper
	mu    sync.Mutex
	list  []fault
	seen  []string // methods
	match func(*http.Request) bool
}

type fault int

const (
	refused   fault = iota // does not reach the server
	lost                   // is done, and the answer is lost
	hangs                  // does not reach the server, and nothing comes back
	lostHangs              // is done, and nothing comes back
	busy                   // 503
	conflict               // 409
	denied                 // 403
	cut                    // the answer ends in the middle
)

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	if !f.match(r) || len(f.list) == 0 {
		f.mu.Unlock()
		return f.RoundTripper.RoundTrip(r)
	}
	what := f.list[0]
	f.list, f.seen = f.list[1:], append(f.seen, r.Method)
	f.mu.Unlock()
	if what == lost || what == lostHangs || what == cut {
		res, err := f.RoundTripper.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		if what == cut {
			data, err := io.ReadAll(res.Body)
			if err != nil {
				return nil, err
			}
			res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(data[:len(data)/2]), broken{}))
			return res, nil
		}
		res.Body.Close()
	}
	answer := func(code int, name string) (*http.Response, error) {
		body := "<Error><Code>" + name + "</Code><Message>" + name + "</Message></Error>"
		return &http.Response{StatusCode: code, Status: name, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
	}
	switch what {
	case hangs, lostHangs:
		<-r.Context().Done()
		return nil, r.Context().Err()
	case busy:
		return answer(503, "SlowDown")
	case conflict:
		return answer(409, "ConditionalRequestConflict")
	case denied:
		return answer(403, "AccessDenied")
	}
	return nil, errors.New("connection reset")
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func openFaulty(t *testing.T, url string, match func(*http.Request) bool) (*Store, *faulty) {
	t.Helper()
	c, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{RoundTripper: http.DefaultTransport, match: match}
	s, err := open(c, f)
	if err != nil {
		t.Fatal(err)
	}
	s.wait, s.patience = time.Millisecond, 500*time.Millisecond
	return s, f
}

func TestCreateUnderFaults(t *testing.T) {
	put := func(r *http.Request) bool { return r.Method == http.MethodPut }
	five := func(f fault) []fault { return []fault{f, f, f, f, f} }
	for _, c := range []struct {
		name  string
		list  []fault
		taken bool  // by another one before
		want  error // nil: created by this call; errAny: some other error
		left  int   // faults that are left
	}{
		{"nothing", nil, false, nil, 0},
		{"refused", []fault{refused, refused}, false, nil, 0},
		{"done, answer lost", []fault{lost}, false, nil, 0},
		{"done, no answer", []fault{lostHangs}, false, nil, 0},
		{"no answer", []fault{hangs}, false, nil, 0},
		{"busy", []fault{busy, busy, busy, busy}, false, nil, 0},
		{"done, then busy", []fault{lost, busy, refused}, false, nil, 0},
		{"conflict", []fault{conflict, conflict}, false, nil, 0},
		{"taken, refused first", []fault{refused, busy}, true, blob.ErrExists, 0},
		{"taken, conflict first", []fault{conflict}, true, blob.ErrExists, 0},
		{"taken, no answer first", []fault{lostHangs}, true, blob.ErrExists, 0},
		{"refused for ever", five(refused), false, errAny, 0},
		{"busy for ever", append(five(busy), busy), false, errAny, 1},
		{"done, and no answer for ever", five(lost), false, errAny, 0},
		{"denied", []fault{denied, denied}, false, errAny, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			url := blobtest.S3(t, nil)
			other := mustOpen(t, url)
			if c.taken {
				// Equal bytes: that it is another's can be seen by nothing but who made it.
				if err := other.Create("a/b", []byte("mine")); err != nil {
					t.Fatal(err)
				}
			}
			s, f := openFaulty(t, url, put)
			f.list = c.list
			began := time.Now()
			err := s.Create("a/b", []byte("mine"))
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			switch {
			case c.want == errAny && (err == nil || errors.Is(err, blob.ErrExists) || errors.Is(err, blob.ErrNotFound)), c.want != errAny && !errors.Is(err, c.want):
				t.Fatalf("error %v, want %v", err, c.want)
			case len(f.list) != c.left:
				t.Errorf("%d faults are left, want %d", len(f.list), c.left)
			case c.want == nil:
				if data, err := other.Get("a/b"); err != nil || string(data) != "mine" {
					t.Errorf("it holds %q, %v", data, err)
				}
			case c.want == errAny:
				// The way on: create it again. Whatever happened before, then it is there.
				if err := s.Create("a/b", []byte("mine")); c.name != "denied" && err != nil && !errors.Is(err, blob.ErrExists) {
					t.Errorf("again: %v", err)
				}
			}
			if names, err := other.List(""); err != nil || c.name != "denied" && !slices.Equal(names, []string{"a/b"}) {
				t.Errorf("List: %q, %v", names, err)
			}
		})
	}
}

var errAny = errors.New("any")

// TestManyCreateUnderFaults: of many creators whose answers are lost at random places one wins, and knows it.
func TestManyCreateUnderFaults(t *testing.T) {
	devstack.AtLength(t)
	url := blobtest.S3(t, nil)
	for round := range 8 {
		name := fmt.Sprintf("claims/%d", round)
		errs := make([]error, 6)
		var wg sync.WaitGroup
		for i := range errs {
			s, f := openFaulty(t, url, func(r *http.Request) bool { return r.Method == http.MethodPut })
			f.list = []fault{lost, refused, busy, lost}[:(i+round)%4]
			wg.Go(func() { errs[i] = s.Create(name, fmt.Append(nil, i)) })
		}
		wg.Wait()
		won := []int{}
		for i, err := range errs {
			if err == nil {
				won = append(won, i)
			} else if !errors.Is(err, blob.ErrExists) {
				t.Fatal(err)
			}
		}
		data, err := mustOpen(t, url).Get(name)
		if err != nil || len(won) != 1 || string(data) != fmt.Sprint(won[0]) {
			t.Fatalf("%s: %v won, it holds %q, %v", name, won, data, err)
		}
	}
}

func TestReadUnderFaults(t *testing.T) {
	devstack.AtLength(t)
	url := blobtest.S3(t, nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), 3*blockBytes/16)
	s, f := openFaulty(t, url, func(r *http.Request) bool { return r.Method != http.MethodPut })
	if err := s.Create("a/b", data); err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]fault{{refused}, {busy, refused, lost}, {hangs}, {refused, cut, cut}, {cut, cut}} {
		f.list = slices.Clone(list)
		if got, err := s.Get("a/b"); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%v: Get: %d bytes, %v", list, len(got), err)
		}
		f.list = slices.Clone(list)
		if names, err := s.List("a/"); err != nil || !slices.Equal(names, []string{"a/b"}) {
			t.Errorf("%v: List: %q, %v", list, names, err)
		}
		f.list = nil
		r, err := s.Open("a/b")
		if err != nil {
			t.Fatal(err)
		}
		f.list = slices.Clone(list)
		buf := make([]byte, 100)
		if _, err := r.ReadAt(buf, blockBytes-50); err != nil || !bytes.Equal(buf, data[blockBytes-50:][:100]) {
			t.Errorf("%v: ReadAt: %v", list, err)
		}
		f.list = slices.Clone(list)
		if _, err := s.Get("a/c"); !errors.Is(err, blob.ErrNotFound) && !slices.Contains(list, cut) {
			t.Errorf("%v: Get of what is not there: %v", list, err)
		}
	}
	f.list = []fault{denied}
	if _, err := s.Get("a/b"); err == nil || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("denied: %v", err)
	}
	f.list = []fault{lost, busy}
	if err := s.Delete("a/b"); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Get("a/b"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("after Delete: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	url := blobtest.S3(t, nil)
	if _, err := Open(strings.Replace(url, "bucket", "other", 1)); err == nil || !strings.Contains(err.Error(), "bucket does not exist") {
		t.Errorf("a missing bucket: %v", err)
	}
	// A storage that knows no If-None-Match replaces objects.
	url = blobtest.S3(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("If-None-Match")
			h.ServeHTTP(w, r)
		})
	})
	if _, err := Open(url); err == nil || !strings.Contains(err.Error(), "the storage ignores If-None-Match") {
		t.Errorf("without create-only: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("HOME", t.TempDir())
	if _, err := Open(url); err == nil || !strings.Contains(err.Error(), "no credentials are found: set AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %v", err)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Config{
		"s3://bucket":          {Bucket: "bucket"},
		"s3://bucket/":         {Bucket: "bucket"},
		"s3://b.u-c/a/b_c=d/":  {Bucket: "b.u-c", Prefix: "a/b_c=d"},
		"s3://bucket?region=x": {Bucket: "bucket", Region: "x"},
		"s3://bucket/p?endpoint=http://127.0.0.1:9000&region=eu-1": {Bucket: "bucket", Prefix: "p", Endpoint: "http://127.0.0.1:9000", Region: "eu-1"},
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"http://bucket": "does not begin with s3://", "s3:///p": "is no name of a bucket", "s3://B": "is no name of a bucket", "s3://key:pass@bucket": "do not belong in a URL",
		"s3://bucket/a//b": "empty part", "s3://bucket/../b": "begins with a dot", "s3://bucket/" + strings.Repeat("a", maxPrefix+1): "at most 123",
		"s3://bucket?regoin=x": `parameter "regoin"`, "s3://bucket?region=": `parameter "region"`, "s3://bucket?region=a&region=b": `parameter "region"`,
		"s3://bucket?endpoint=host:9000": "is not as http://", "s3://bucket?endpoint=http://h/path": "is not as http://", "s3://bucket?a;b": "semicolon", "s3://bu%zz": "invalid URL",
	} {
		if got, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", text, got, err, want)
		}
	}
}

// TestATimeoutEnds: a storage that does not answer costs a bounded time, whatever is asked of it.
func TestATimeoutEnds(t *testing.T) {
	url := blobtest.S3(t, nil)
	s, f := openFaulty(t, url, func(*http.Request) bool { return true })
	s.patience = 20 * time.Millisecond
	for what, do := range map[string]func() error{
		"Create": func() error { return s.Create("a", nil) },
		"Get":    func() error { _, err := s.Get("a"); return err },
		"Open":   func() error { _, err := s.Open("a"); return err },
		"List":   func() error { _, err := s.List(""); return err },
		"Delete": func() error { return s.Delete("a") },
	} {
		f.list = slices.Repeat([]fault{hangs}, 10*tries) // also for requests that were given up and come late
		began := time.Now()
		err := do()
		if took := time.Since(began); took > 10*time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "5 tries") {
			t.Errorf("%s: %v after %s", what, err, took)
		}
	}
}

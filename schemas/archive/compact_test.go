package archive

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tandem/schemas/blob"
)

// archived makes a chain of n manifests of ten minutes each, some with no file, and returns all rows.
func archived(t *testing.T, b blob.Store, rng *rand.Rand, n int) (chain []Manifest, rows []Row) {
	t.Helper()
	const begin = 1_760_000_400_000 // a full hour
	offset := int64(0)
	for i := range n {
		end := begin + int64(i+1)*600_000
		m := Manifest{Topic: "beacons", TopicID: "id", First: offset, Progress: map[string]int64{"a": end, "b": end + 5}}
		var part []Row
		if rng.IntN(5) > 0 {
			part = testRows(rng, 1+rng.IntN(80))
			for k := range part {
				part[k].Offset, part[k].TS = offset+int64(k), end-600_000+rng.Int64N(600_000)
			}
		}
		m.Next = offset + int64(len(part)) + 1 + rng.Int64N(5)
		if len(part) > 0 {
			rows = append(rows, part...)
			Sort(part)
			data, info, err := Write(part)
			if err != nil {
				t.Fatal(err)
			}
			if info, _, err = Create(b, "uswm", "beacons", 0, m.First, 0, end, data, info); err != nil {
				t.Fatal(err)
			}
			m.Files, m.Windows = []FileInfo{info}, CountWindows(part)
		}
		mustAppend(t, b, m)
		offset = m.Next
	}
	chain, err := Chain(b, "beacons", 0)
	if err != nil {
		t.Fatal(err)
	}
	return chain, rows
}

// readSources reads everything that overlaps [first, next), as a reader of these offsets does.
func readSources(t *testing.T, b blob.Store, chain []Manifest, first, next int64) []Row {
	t.Helper()
	all, _, err := ReadSources(b, chain)
	if err != nil {
		t.Fatal(err)
	}
	var iters []*Iter
	for _, s := range all {
		if s.Next <= first || s.First >= next {
			continue
		}
		r, err := b.Open(s.Info.Name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := OpenFile(r, s.Info)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		iters = append(iters, f.Rows(0, math.MaxUint64, everything).Offsets(func(o int64) bool { return first <= o && o < next }))
	}
	var got []Row
	m := Merge(iters)
	for m.Next() {
		got = append(got, cloneRow(m.Row()))
	}
	if m.Err() != nil {
		t.Fatal(m.Err())
	}
	return got
}

func mustCompact(t *testing.T, b blob.Store, chain []Manifest, now int64) Compacted {
	t.Helper()
	c := &Compactor{Blobs: b, Tenant: "uswm", SpanMS: 3_600_000, MaxRows: 100, MaxBytes: 1 << 20}
	done, err := c.Compact(t.Context(), chain, now)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func noProblems(t *testing.T, b blob.Store, wantRows int) {
	t.Helper()
	v, err := Verify(t.Context(), b, "beacons", 0, func(err error) { t.Error(err) }, func(FileInfo) {})
	if err != nil || v.Rows != int64(wantRows) {
		t.Errorf("%+v, %v; want %d rows", v, err, wantRows)
	}
}

func TestCompaction(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 77))
		b := blob.NewMem()
		chain, rows := archived(t, b, rng, 20)
		check := func(what string) {
			t.Helper()
			for range 5 {
				lo := rng.Int64N(chain[len(chain)-1].Next)
				hi := lo + rng.Int64N(chain[len(chain)-1].Next-lo+1)
				want := slices.DeleteFunc(sorted(rows), func(r Row) bool { return r.Offset < lo || r.Offset >= hi })
				wantRows(t, what, readSources(t, b, chain, lo, hi), want)
			}
			noProblems(t, b, len(rows))
		}
		check("as archived")
		first := mustCompact(t, b, chain, 1000)
		if first.Runs != 3 || first.Merged == 0 || first.Deleted != 0 {
			t.Fatalf("seed %d: %+v", seed, first)
		}
		check("compacted, originals there")
		if again := mustCompact(t, b, chain, 1000+CompactionGrace-1); again != (Compacted{}) {
			t.Fatalf("too early: %+v", again)
		}
		swept := mustCompact(t, b, chain, 1000+CompactionGrace)
		if swept.Runs != 0 || int(swept.Deleted) != first.From {
			t.Fatalf("seed %d: %+v after %+v", seed, swept, first)
		}
		check("compacted, originals gone")
		if again := mustCompact(t, b, chain, 1000+2*CompactionGrace); again != (Compacted{}) {
			t.Fatalf("again: %+v", again)
		}
	}
}

// A reader may have read the chain before a compactor went on that had a longer one.
func TestCompactionsOfALongerChain(t *testing.T) {
	b := blob.NewMem()
	chain, rows := archived(t, b, rand.New(rand.NewPCG(7, 7)), 20)
	mustCompact(t, b, chain, 1000)
	compactions, err := Compactions(b, chain)
	if err != nil || len(compactions) != 3 {
		t.Fatal(compactions, err)
	}
	for n := 1; n < len(chain); n++ {
		end := chain[n-1].Next
		want := slices.DeleteFunc(sorted(rows), func(r Row) bool { return r.Offset >= end })
		wantRows(t, "before", readSources(t, b, chain[:n], 0, math.MaxInt64), want)
		if got, err := Compactions(b, chain[:n]); err != nil || len(got) > 0 && got[len(got)-1].Next > end {
			t.Errorf("of %d manifests: %+v, %v", n, got, err)
		}
	}
	// Manifests that are gone are another matter.
	if err := b.Delete(ManifestName("beacons", 0, chain[3].First)); err != nil {
		t.Fatal(err)
	}
	if _, err := Compactions(b, chain[:3]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a chain that ends within a compaction: %v", err)
	}
}

// A compactor that died after it wrote files left them; the next one uses them as they are.
func TestCompactionKilledBeforeItCommits(t *testing.T) {
	b := blob.NewMem()
	chain, rows := archived(t, b, rand.New(rand.NewPCG(1, 2)), 20)
	c := &Compactor{Blobs: failing{b, "compactions/"}, Tenant: "uswm", SpanMS: 3_600_000, MaxRows: 100, MaxBytes: 1 << 20}
	if _, err := c.Compact(t.Context(), chain, 0); !errors.Is(err, errFails) {
		t.Fatal(err)
	}
	left, err := b.List("events/")
	if err != nil {
		t.Fatal(err)
	}
	mustCompact(t, b, chain, 0)
	all, _, err := ReadSources(b, chain)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all[:1] {
		if !slices.Contains(left, s.Info.Name) {
			t.Errorf("%s was written again", s.Info.Name)
		}
	}
	noProblems(t, b, len(rows))
}

var errFails = errors.New("storage fails")

type failing struct {
	blob.Store
	prefix string
}

func (f failing) Create(name string, data []byte) error {
	if strings.HasPrefix(name, f.prefix) {
		return errFails
	}
	return f.Store.Create(name, data)
}

// dying deletes a number of objects, and then fails.
type dying struct {
	blob.Store
	left int
}

func (d *dying) Delete(name string) error {
	if d.left--; d.left < 0 {
		return errFails
	}
	return d.Store.Delete(name)
}

// Files are not compacted, or just now, so that those replaced are there, or a while ago.
func TestRetire(t *testing.T) {
	for compactions := range 3 {
		b := blob.NewMem()
		chain, rows := archived(t, b, rand.New(rand.NewPCG(5, 2)), 20)
		for k := range compactions {
			mustCompact(t, b, chain, int64(k)*CompactionGrace)
		}
		all, _, err := ReadSources(b, chain)
		if err != nil {
			t.Fatal(err)
		}
		before := int64(1_760_000_400_000 + 4*WindowMillis)
		next := Retirable(all, before)
		files := func() []string {
			l, err := ListFiles(b, "uswm")
			if err != nil {
				t.Fatal(err)
			}
			return l.Behind("beacons", 0, next)
		}
		if next == 0 || len(files()) == 0 || next >= chain[len(chain)-1].Next {
			t.Fatal(next, files())
		}
		r := Retired{Topic: "beacons", Next: next, Before: before}
		if err := Retire(&dying{b, 1}, r, files()); !errors.Is(err, errFails) {
			t.Fatal(err)
		}
		for range 2 { // it may be called again
			if err := Retire(b, r, files()); err != nil {
				t.Fatal(err)
			}
		}
		if left := files(); len(left) > 0 {
			t.Errorf("%d compactions: %q are left", compactions, left)
		}
		want := slices.DeleteFunc(sorted(rows), func(r Row) bool { return r.Offset < next })
		for _, w := range rows {
			if w.Offset < next && w.TS >= before {
				t.Fatalf("offset %d of ts %d is gone", w.Offset, w.TS)
			}
		}
		for range 2 {
			wantRows(t, "kept", readSources(t, b, chain, 0, math.MaxInt64), want)
			noProblems(t, b, len(want))
			mustCompact(t, b, chain, 1) // compaction goes on beside it
			mustCompact(t, b, chain, 2*CompactionGrace)
		}
	}
}

// busy is an archive that others are at: do is done once, before the first object of a folder is opened, or after it is listed.
type busy struct {
	blob.Store
	folder string
	do     func()
}

func (b *busy) act(name string) {
	if do := b.do; do != nil && strings.HasPrefix(name, b.folder) {
		b.do = nil
		do()
	}
}

func (b *busy) Open(name string) (blob.Reader, error) {
	b.act(name)
	return b.Store.Open(name)
}

func (b *busy) List(prefix string) ([]string, error) {
	b.act(prefix)
	return b.Store.List(prefix)
}

// An archiver appends, and files are retired, while an archive is verified.
func TestVerifyBesideOthers(t *testing.T) {
	for folder, do := range map[string]func(b blob.Store, chain []Manifest){
		"manifests/": func(b blob.Store, chain []Manifest) {
			end := chain[len(chain)-1].Next
			mustAppend(t, b, Manifest{Topic: "beacons", TopicID: "id", First: end, Next: end + 1, Progress: map[string]int64{"a": 1}})
		},
		"events/": func(b blob.Store, chain []Manifest) {
			l, err := ListFiles(b, "uswm")
			if err != nil {
				t.Fatal(err)
			}
			next := chain[5].Next
			if err := Retire(b, Retired{Topic: "beacons", Next: next, Before: 1_760_000_400_000 + 2*WindowMillis}, l.Behind("beacons", 0, next)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		b := blob.NewMem()
		chain, _ := archived(t, b, rand.New(rand.NewPCG(9, 9)), 10)
		others := &busy{Store: b, folder: folder, do: func() { do(b, chain) }}
		v, err := Verify(t.Context(), others, "beacons", 0, func(err error) { t.Errorf("%s: %v", folder, err) }, func(FileInfo) {})
		if err != nil || v.Files == 0 || others.do != nil {
			t.Errorf("%s: %+v, %v", folder, v, err)
		}
	}
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, b blob.Store, chain []Manifest) string // and what must be named
	}{
		{"missing manifest", func(t *testing.T, b blob.Store, chain []Manifest) string {
			name := ManifestName("beacons", 0, chain[5].First)
			b.Delete(name)
			return name + " is missing"
		}},
		{"missing file", func(t *testing.T, b blob.Store, chain []Manifest) string {
			i := slices.IndexFunc(chain, func(m Manifest) bool { return len(m.Files) > 0 })
			b.Delete(chain[i].Files[0].Name)
			return chain[i].Files[0].Name
		}},
		{"flipped bit", func(t *testing.T, b blob.Store, chain []Manifest) string {
			i := slices.IndexFunc(chain, func(m Manifest) bool { return len(m.Files) > 0 })
			name := chain[i].Files[0].Name
			data, err := b.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			b.Delete(name)
			if err := b.Create(name, data); err != nil {
				t.Fatal(err)
			}
			return name + ": corrupt: its SHA-256"
		}},
		{"counts of another window", func(t *testing.T, b blob.Store, chain []Manifest) string {
			i := slices.IndexFunc(chain, func(m Manifest) bool { return len(m.Windows) > 0 })
			m := chain[i]
			m.Windows = []Window{{Start: 0, Records: m.rows()}}
			b.Delete(ManifestName("beacons", 0, m.First))
			mustAppend(t, b, m)
			return ManifestName("beacons", 0, m.First) + ": corrupt: it counts"
		}},
		{"a compaction that ends nowhere", func(t *testing.T, b blob.Store, chain []Manifest) string {
			if err := AppendCompaction(b, Compaction{Topic: "beacons", TopicID: "id", First: 0, Next: chain[0].Next + 1, Files: chain[0].Files}); err != nil {
				t.Fatal(err)
			}
			return CompactionName("beacons", 0, 0)
		}},
	}
	for _, test := range tests {
		b := blob.NewMem()
		chain, _ := archived(t, b, rand.New(rand.NewPCG(9, 9)), 10)
		want := test.spoil(t, b, chain)
		var got []string
		if _, err := Verify(t.Context(), b, "beacons", 0, func(err error) { got = append(got, err.Error()) }, func(FileInfo) {}); err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || !strings.Contains(got[0], want) {
			t.Errorf("%s: %q, want %q", test.name, got, want)
		}
	}
}

// Names of both kinds of files tell their partition and offsets, whatever digits the topic has.
func TestListing(t *testing.T) {
	b := blob.NewMem()
	const topic = "beacons.shop-7.0"
	own, merged := FileName("shop-7", topic, 1, 10, 0, 0), CompactedName("shop-7", topic, 1, 20, 40, 3, 0)
	for _, name := range []string{own, merged, FileName("shop-7", topic, 11, 0, 0, 0)} {
		if err := b.Create(name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	l, err := ListFiles(b, "shop-7")
	if err != nil {
		t.Fatal(err)
	}
	for end, want := range map[int64]string{0: own, 10: merged, 20: ""} {
		if got := l.Beyond(topic, 1, end); got != want {
			t.Errorf("beyond %d lies %q, want %q", end, got, want)
		}
	}
	for next, want := range map[int64][]string{10: nil, 20: {own}, 39: {own}, 40: {own, merged}} {
		if got := l.Behind(topic, 1, next); !slices.Equal(got, want) {
			t.Errorf("behind %d lie %q, want %q", next, got, want)
		}
	}
}

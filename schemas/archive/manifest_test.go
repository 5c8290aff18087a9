package archive

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"tandem/schemas/blob"
)

func testManifest(first, next int64) Manifest {
	return Manifest{
		Topic: "beacons.uswm.0", TopicID: "id1", Partition: 3, First: first, Next: next,
		Files: []FileInfo{{
			Name: FileName("uswm", "beacons.uswm.0", 3, first, 0, 1_760_000_000_000), Bytes: 9, Digest: strings.Repeat("0a", 32), Tail: 9, TailDigest: strings.Repeat("0b", 32), Rows: 5,
			MinHash: 1, MaxHash: 1<<64 - 1, MinTS: -1, MaxTS: 2, MinOffset: first, MaxOffset: next - 1,
		}},
		Progress: map[string]int64{"dispatch-1": 7, "<mirror>": 1_760_000_000_000},
		Windows:  []Window{{Start: -WindowMillis, Records: 1}, {Start: 0, Records: 4}},
	}
}

func mustAppend(t *testing.T, b blob.Store, m Manifest) {
	t.Helper()
	if err := Append(b, m); err != nil {
		t.Fatal(err)
	}
}

func TestChain(t *testing.T) {
	b := blob.NewMem()
	if chain, err := Chain(b, "beacons.uswm.0", 3); err != nil || chain != nil {
		t.Fatalf("empty chain = %v, %v", chain, err)
	}
	empty := Manifest{Topic: "beacons.uswm.0", TopicID: "id1", Partition: 3, First: 10, Next: 12, Progress: map[string]int64{"dispatch-1": 9}}
	want := []Manifest{testManifest(0, 10), empty, testManifest(12, 100)}
	for i := range want {
		mustAppend(t, b, want[i])
		want[i].Version = ManifestVersion
	}
	chain, err := Chain(b, "beacons.uswm.0", 3)
	if err != nil || len(chain) != 3 {
		t.Fatalf("chain = %v, %v", chain, err)
	}
	for i := range chain {
		if !isDigest(chain[i].Digest) {
			t.Errorf("manifest %d has digest %q", i, chain[i].Digest)
		}
		chain[i].Digest = ""
	}
	if !reflect.DeepEqual(chain, want) {
		t.Errorf("chain\n%+v, want\n%+v", chain, want)
	}
	if rest, err := ChainFrom(b, "beacons.uswm.0", 3, 12); err != nil || len(rest) != 1 || rest[0].Next != 100 {
		t.Errorf("ChainFrom(12) = %v, %v", rest, err)
	}
	if err := CheckChain(b, "beacons.uswm.0", 3); err != nil {
		t.Error(err)
	}
	if err := Append(b, testManifest(10, 11)); !errors.Is(err, blob.ErrExists) {
		t.Errorf("second manifest at 10: %v", err)
	}
	if err := b.Delete(ManifestName("beacons.uswm.0", 3, 10)); err != nil {
		t.Fatal(err)
	}
	if err := CheckChain(b, "beacons.uswm.0", 3); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "00000000000000000010.json is missing") {
		t.Errorf("gap: %v", err)
	}
}

func TestOneArchiverWins(t *testing.T) {
	b := blob.NewMem()
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = Append(b, testManifest(0, int64(10+i))) })
	}
	wg.Wait()
	chain, err := Chain(b, "beacons.uswm.0", 3)
	if err != nil || len(chain) != 1 {
		t.Fatal(chain, err)
	}
	for i, err := range errs {
		if won := chain[0].Next == int64(10+i); won != (err == nil) || !won && !errors.Is(err, blob.ErrExists) {
			t.Errorf("archiver %d: %v, the chain ends at %d", i, err, chain[0].Next)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	for text, change := range map[string]func(m *Manifest){
		"are empty":             func(m *Manifest) { m.Next = m.First },
		"below 0":               func(m *Manifest) { m.First = -1 },
		"partition is -1":       func(m *Manifest) { m.Partition = -1 },
		"bad object name":       func(m *Manifest) { m.Files[0].Name = "../x" },
		"hex digits":            func(m *Manifest) { m.Files[0].Digest = "00" },
		"are outside [10, 20)":  func(m *Manifest) { m.Files[0].MaxOffset = 20 },
		"rows is 0":             func(m *Manifest) { m.Files[0].Rows = 0 },
		"no multiple":           func(m *Manifest) { m.Windows[1].Start++ },
		"not after":             func(m *Manifest) { m.Windows[1].Start = m.Windows[0].Start },
		"1 more rows":           func(m *Manifest) { m.Windows[1].Records-- },
		"above max_ts":          func(m *Manifest) { m.Files[0].MinTS = 3 },
		"bad object name \"man": func(m *Manifest) { m.Topic = ".." },
	} {
		b := blob.NewMem()
		m := testManifest(10, 20)
		change(&m)
		if err := Append(b, m); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q: %v", text, err)
		}
		if names, _ := b.List(""); len(names) != 0 {
			t.Errorf("%q: refused, but %q is there", text, names)
		}
	}
}

func TestCorruptManifestIsNamed(t *testing.T) {
	good := blob.NewMem()
	mustAppend(t, good, testManifest(0, 10))
	name := ManifestName("beacons.uswm.0", 3, 0)
	data, err := good.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, name string, data []byte) {
		t.Helper()
		b := blob.NewMem()
		if err := b.Create(name, data); err != nil {
			t.Fatal(err)
		}
		if chain, err := Chain(b, "beacons.uswm.0", 3); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v", what, chain, err)
		}
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("flip at %d", i), name, bad)
		check(fmt.Sprintf("cut at %d", i), name, data[:i])
	}
	check("longer", name, append(bytes.Clone(data), '\n'))

	other := testManifest(0, 10)
	other.Partition = 4
	mustAppend(t, good, other)
	moved, err := good.Get(ManifestName("beacons.uswm.0", 4, 0))
	if err != nil {
		t.Fatal(err)
	}
	check("another partition's", name, moved)
}

func TestChainOfTwoTopicIDs(t *testing.T) {
	b := blob.NewMem()
	mustAppend(t, b, testManifest(0, 10))
	m := testManifest(10, 20)
	m.TopicID = "id2"
	mustAppend(t, b, m)
	if _, err := Chain(b, "beacons.uswm.0", 3); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "topic id") {
		t.Error(err)
	}
}

func TestPartitions(t *testing.T) {
	b := blob.NewMem()
	if _, err := ReadPartitions(b, "t"); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
	p := Partitions{Topic: "t", TopicID: "id1", Count: 8}
	for range 2 {
		if err := RecordPartitions(b, p); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ReadPartitions(b, "t"); err != nil || got != (Partitions{ManifestVersion, "t", "id1", 8}) {
		t.Error(got, err)
	}
	for _, bad := range []Partitions{{Topic: "t", TopicID: "id1", Count: 9}, {Topic: "t", TopicID: "id2", Count: 8}, {Topic: "u", Count: 0}} {
		if err := RecordPartitions(b, bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestNamesAndLeftovers(t *testing.T) {
	const want = "events/tenant=uswm/dt=2025-10-09/hh=08/beacons-3-00000000000000000012-0.parquet"
	if got := FileName("uswm", "beacons", 3, 12, 0, 1_760_000_000_000); got != want || blob.CheckName(got) != nil {
		t.Errorf("FileName = %q, want %q", got, want)
	}
	b := blob.NewMem()
	data, info := mustWrite(t, []Row{{Hash: 1, Offset: 12}})
	other, otherInfo := mustWrite(t, []Row{{Hash: 2, Offset: 12}})
	for i, step := range []struct {
		data []byte
		info FileInfo
		next int
	}{{data, info, 1}, {data, info, 1}, {other, otherInfo, 2}, {other, otherInfo, 2}, {data, info, 1}} {
		got, next, err := Create(b, "uswm", "beacons", 3, 12, 0, 1_760_000_000_000, step.data, step.info)
		if err != nil || next != step.next || got.Digest != step.info.Digest {
			t.Fatalf("step %d: %+v, %d, %v", i, got, next, err)
		}
		r, err := b.Open(got.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFile(r, got); err != nil {
			t.Error(err)
		}
	}
}

func TestCountWindows(t *testing.T) {
	got := CountWindows([]Row{{TS: WindowMillis}, {TS: 0}, {TS: -1}, {TS: WindowMillis - 1}, {TS: -WindowMillis}, {TS: -WindowMillis - 1}})
	want := []Window{{-2 * WindowMillis, 1}, {-WindowMillis, 2}, {0, 2}, {WindowMillis, 1}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

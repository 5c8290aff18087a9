package archive

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"tandem/schemas/blob"
)

// gets counts the objects that are read.
type gets struct {
	blob.Store
	n int
}

func (g *gets) Get(name string) ([]byte, error) {
	g.n++
	return g.Store.Get(name)
}

// copied copies the objects of a folder that are not there yet, the first n of them.
func copied(t *testing.T, from, to blob.Store, folder string, n int) {
	t.Helper()
	names, err := from.List(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names[:min(n, len(names))] {
		data, err := from.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Get(name); err == nil {
			continue
		}
		if err := to.Create(name, data); err != nil {
			t.Fatal(err)
		}
	}
}

// sameChain says how a chain differs from that of the manifests themselves, but for what a summary leaves out.
func sameChain(full, got []Manifest, retired int64) string {
	if len(full) == 0 || len(got) == 0 {
		return fmt.Sprintf("%d and %d manifests", len(full), len(got))
	}
	if first := got[0]; len(first.Files) == 0 && first.Next <= retired {
		for len(full) > 0 && full[0].Next <= first.Next {
			full = full[1:]
		}
		got = got[1:]
		if full[0].First != first.Next {
			return fmt.Sprintf("the first one ends at %d, within that of %d", first.Next, full[0].First)
		}
	}
	if len(full) != len(got) {
		return fmt.Sprintf("%d manifests, want %d", len(got), len(full))
	}
	for i := range full {
		a, b := full[i], got[i]
		la, ka := a.Least()
		lb, kb := b.Least()
		if i < len(full)-1 {
			a.Progress, b.Progress, a.Aside, b.Aside, a.Digest, b.Digest = nil, nil, nil, nil, "", ""
		}
		b.compaction = nil
		if la != lb || ka != kb || !reflect.DeepEqual(a, b) {
			return fmt.Sprintf("manifest %d: %+v, want %+v", i, b, a)
		}
	}
	return ""
}

// A chain by its summary is that of its manifests, whatever has been compacted and retired and whenever summaries were written.
func TestSummaries(t *testing.T) {
	collapsed := 0
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 7))
		all, b := blob.NewMem(), blob.NewMem()
		whole, _ := archived(t, all, rng, 60)
		copied(t, all, b, "events/", 1000)
		behind, compactions := 0, 0
		for n := 0; n < 60; {
			more := 1 + rng.IntN(7)
			n, behind = n+more, behind+more
			copied(t, all, b, "manifests/beacons/0/", n)
			full, err := ChainFrom(b, "beacons", 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			switch rng.IntN(4) {
			case 0:
				mustCompact(t, b, must(Chain(b, "beacons", 0))(t), 1000*int64(n))
			case 1:
				sources, _, err := ReadSources(b, full)
				if err != nil {
					t.Fatal(err)
				}
				if next := Retirable(sources, whole[rng.IntN(n)%60].Progress["a"]); next > 0 {
					files := must(ListFiles(b, "uswm"))(t).Behind("beacons", 0, next)
					if err := Retire(b, Retired{Topic: "beacons", Next: next, Before: 1}, files); err != nil {
						t.Fatal(err)
					}
				}
			case 2:
				if err := Summarize(b, "beacons", 0); err != nil {
					t.Fatal(err)
				}
				behind, compactions = 0, len(must(b.List("compactions/"))(t))
			}
			counted := &gets{Store: b}
			got, err := Chain(counted, "beacons", 0)
			if err != nil {
				t.Fatal(err)
			}
			// The summary, its last manifest, those behind it, and the one that is not there.
			if most := behind + 3; counted.n > most {
				t.Errorf("seed %d: %d objects are read, of %d manifests %d are behind the summary", seed, counted.n, len(full), behind)
			}
			was, retired, err := ReadSources(b, full)
			if err != nil {
				t.Fatal(err)
			}
			if fault := sameChain(full, got, retired.Next); fault != "" {
				t.Fatalf("seed %d, %d manifests: %s", seed, n, fault)
			}
			counted.n = 0
			is, _, err := ReadSources(counted, got)
			if most := len(must(b.List("compactions/"))(t)) - compactions + 2; counted.n > most {
				t.Errorf("seed %d: %d objects are read, %d compactions are behind the summary", seed, counted.n, most-2)
			}
			if err != nil || !reflect.DeepEqual(is, was) {
				t.Fatalf("seed %d, %d manifests: sources\n%+v, %v, want\n%+v", seed, n, is, err, was)
			}
			if got[0].Next > full[0].Next {
				collapsed++
			}
			if names := must(b.List("summaries/"))(t); len(names) > 2 {
				t.Errorf("seed %d: %d summaries are kept: %s", seed, len(names), names)
			}
		}
		if err := CheckChain(b, "beacons", 0); err != nil {
			t.Error(err)
		}
	}
	if collapsed < 10 {
		t.Errorf("only %d chains began with what is gone", collapsed)
	}
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// What is wrong with a summary is no matter: the one before it is gone by, or the manifests.
func TestASummaryThatIsNotOfTheChain(t *testing.T) {
	replace := func(t *testing.T, b blob.Store, name string, with []byte) {
		t.Helper()
		if err := b.Delete(name); err != nil {
			t.Fatal(err)
		}
		if with != nil {
			if err := b.Create(name, with); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, what := range []string{"corrupt", "cut", "of another partition", "its last manifest is another", "its last manifest is gone"} {
		b, other := blob.NewMem(), blob.NewMem()
		chain, _ := archived(t, b, rand.New(rand.NewPCG(1, 1)), 20)
		archived(t, other, rand.New(rand.NewPCG(2, 2)), 20)
		if err := Summarize(b, "beacons", 0); err != nil {
			t.Fatal(err)
		}
		if err := Summarize(other, "beacons", 0); err != nil {
			t.Fatal(err)
		}
		name := must(b.List("summaries/"))(t)[0]
		data := must(b.Get(name))(t)
		switch what {
		case "corrupt":
			bad := slices.Clone(data)
			bad[len(bad)/2] ^= 4
			replace(t, b, name, bad)
		case "cut":
			replace(t, b, name, data[:len(data)-1])
		case "of another partition":
			replace(t, b, name, nil)
			if err := b.Create(strings.Replace(name, "/0/", "/1/", 1), data); err != nil {
				t.Fatal(err)
			}
			if got, err := Chain(b, "beacons", 1); err != nil || len(got) > 0 {
				t.Errorf("%s: %d manifests, %v", what, len(got), err)
			}
		case "its last manifest is another":
			of := must(other.List("summaries/"))(t)[0]
			replace(t, b, name, nil)
			if err := b.Create(of, must(other.Get(of))(t)); err != nil {
				t.Fatal(err)
			}
		case "its last manifest is gone":
			replace(t, b, ManifestName("beacons", 0, chain[19].First), nil)
			chain = chain[:19]
		}
		problems := 0
		for _, partition := range []int32{0, 1} {
			if _, err := Verify(t.Context(), b, "beacons", partition, func(error) { problems++ }, func(FileInfo) {}); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if problems != 1 {
			t.Errorf("%s: %d problems are told", what, problems)
		}
		got, err := Chain(b, "beacons", 0)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if fault := sameChain(chain, got, 0); fault != "" {
			t.Errorf("%s: %s", what, fault)
		}
	}
}

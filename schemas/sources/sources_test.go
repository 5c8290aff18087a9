package sources

import (
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"tandem/schemas/blob"
	"tandem/schemas/sealed"
	"tandem/schemas/wire"
)

func source(topic string, partition int32) wire.Source {
	return wire.Source{Cluster: "dc1", Topic: topic, TopicID: "id-" + topic, Partition: partition, Kind: wire.KindLive}
}

func appended(t *testing.T, blobs blob.Store, list ...wire.Source) wire.Sources {
	t.Helper()
	s, err := Append(blobs, "dc1", list)
	if err != nil {
		t.Fatal(err)
	}
	read, err := Read(blobs, "dc1")
	if err != nil || !reflect.DeepEqual(read, s) {
		t.Fatalf("Append gave %+v, Read %+v, %v", s, read, err)
	}
	return s
}

func TestChainGrowsAtItsEnd(t *testing.T) {
	blobs := blob.NewMem()
	if s, err := Read(blobs, "dc1"); err != nil || s.Revision != 0 || len(s.List) != 0 {
		t.Fatalf("an empty chain is %+v, %v", s, err)
	}
	a0, a1, b0 := source("a", 0), source("a", 1), source("b", 0)
	first := appended(t, blobs, a0, a1)
	if first.Revision != 1 {
		t.Errorf("revision %d", first.Revision)
	}
	if again := appended(t, blobs, a1, a0); !reflect.DeepEqual(again, first) {
		t.Errorf("the same sources in another order made %+v", again)
	}
	// The order of the chain stands, whatever that of the site file.
	second := appended(t, blobs, b0, a0, a1)
	if want := (wire.Sources{Revision: 2, List: []wire.Source{a0, a1, b0}}); !reflect.DeepEqual(second, want) {
		t.Errorf("%+v, want %+v", second, want)
	}
	if names, _ := blobs.List(""); !reflect.DeepEqual(names, []string{"sources/dc1/000001.json", "sources/dc1/000002.json"}) {
		t.Errorf("objects %q", names)
	}
}

func TestAppendRefuses(t *testing.T) {
	a0, a1 := source("a", 0), source("a", 1)
	change := func(s wire.Source, f func(*wire.Source)) wire.Source { f(&s); return s }
	for _, c := range []struct {
		name string
		list []wire.Source
		want string
	}{
		{"made anew", []wire.Source{change(a0, func(s *wire.Source) { s.TopicID = "new" }), a1}, "was made anew: its id is new, and id-a in revision 1"},
		{"another kind", []wire.Source{a0, change(a1, func(s *wire.Source) { s.Kind = wire.KindHistory })}, "a/1 of cluster dc1 is of kind history, and live"},
		{"taken away", []wire.Source{a0}, "a/1 of cluster dc1 is in revision 1 and not in the site file"},
		{"of another cluster now", []wire.Source{a0, change(a1, func(s *wire.Source) { s.Cluster = "dc2" })}, "a/1 of cluster dc1 is in revision 1 and not"},
		{"twice", []wire.Source{a0, a1, a0}, "source 2: a/0 of cluster dc1 is there twice"},
		{"no such kind", []wire.Source{change(a0, func(s *wire.Source) { s.Kind = "" })}, `of kind ""`},
		{"no id", []wire.Source{a0, a1, change(source("b", 0), func(s *wire.Source) { s.TopicID = "" })}, "source 2 is not whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			blobs := blob.NewMem()
			before := appended(t, blobs, a0, a1)
			if _, err := Append(blobs, "dc1", c.list); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if after, err := Read(blobs, "dc1"); err != nil || !reflect.DeepEqual(after, before) {
				t.Errorf("the chain is %+v, %v", after, err)
			}
		})
	}
	have := wire.Sources{Revision: 1, List: []wire.Source{a0}}
	gone := change(a0, func(s *wire.Source) { s.TopicID = "" })
	if _, err := Added(&have, []wire.Source{gone}); err == nil || !strings.Contains(err.Error(), "is in revision 1 and gone") {
		t.Errorf("a topic that is gone: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	a0, a1 := source("a", 0), source("a", 1)
	seal := func(s wire.Sources) []byte {
		data, err := sealed.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	good := seal(wire.Sources{Revision: 2, List: []wire.Source{a0, a1}})
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-10] ^= 1
	for name, data := range map[string][]byte{
		"a revision of another number": seal(wire.Sources{Revision: 3, List: []wire.Source{a0, a1}}),
		"nothing added":                seal(wire.Sources{Revision: 2, List: []wire.Source{a0}}),
		"one changed":                  seal(wire.Sources{Revision: 2, List: []wire.Source{a1, a0}}),
		"one twice":                    seal(wire.Sources{Revision: 2, List: []wire.Source{a0, a0}}),
		"a flipped bit":                flipped,
		"cut":                          good[:len(good)-1],
		"empty":                        nil,
	} {
		blobs := blob.NewMem()
		appended(t, blobs, a0)
		if err := blobs.Create("sources/dc1/000002.json", data); err != nil {
			t.Fatal(err)
		}
		if s, err := Read(blobs, "dc1"); err == nil || !strings.Contains(err.Error(), "sources/dc1/000002.json") {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

// TestManyAppendAtOnce: all who want the same get it, and each revision is made once.
func TestManyAppendAtOnce(t *testing.T) {
	blobs := blob.NewMem()
	list := []wire.Source{source("a", 0)}
	for round := range 5 {
		list = append(list, source("b", int32(round)))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if s, err := Append(blobs, "dc1", list); err != nil || !reflect.DeepEqual(s.List, list) {
					t.Errorf("%+v, %v", s, err)
				}
			})
		}
		wg.Wait()
		if s, err := Read(blobs, "dc1"); err != nil || s.Revision != round+1 {
			t.Errorf("revision %d after %d rounds, %v", s.Revision, round+1, err)
		}
	}
}

// broken fails its first Create after, or before, it has had its effect.
type broken struct {
	blob.Store
	applied, failed bool
}

func (b *broken) Create(name string, data []byte) error {
	if b.failed {
		return b.Store.Create(name, data)
	}
	b.failed = true
	if b.applied {
		if err := b.Store.Create(name, data); err != nil {
			return err
		}
	}
	return errors.New("cut off")
}

func TestAppendAfterAFault(t *testing.T) {
	for _, applied := range []bool{false, true} {
		blobs := &broken{Store: blob.NewMem(), applied: applied}
		if _, err := Append(blobs, "dc1", []wire.Source{source("a", 0)}); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("error %v", err)
		}
		if s := appended(t, blobs, source("a", 0)); s.Revision != 1 {
			t.Errorf("applied %v: revision %d", applied, s.Revision)
		}
	}
}

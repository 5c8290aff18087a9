package wire_test

import (
	"math"
	"reflect"
	"testing"

	"tandem/schemas/wire"
)

func TestProgressRoundTrip(t *testing.T) {
	p := wire.Progress{
		Sources: wire.Sources{Revision: 2, List: []wire.Source{{Cluster: "a", Topic: "raw", TopicID: "id", Partition: 1, Kind: wire.KindLive}, {Kind: wire.KindMirror}}},
		At:      []wire.SourceAt{{Source: 1, MS: math.MaxInt64, Offset: 5}, {Source: 0, MS: -1, Offset: 0}},
	}
	got, err := wire.ReadProgress(wire.AppendProgress(nil, &p))
	if err != nil || !reflect.DeepEqual(p, got) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestProgressOfAnUnlistedSourceIsRefused(t *testing.T) {
	for _, text := range []string{`{"sources":{"list":[{}]},"at":[{"source":1}]}`, `{"at":[{"source":0}]}`, `{"sources":{"list":[{}]},"at":[{"source":-1}]}`, `[]`, ``, `{"at":`} {
		if _, err := wire.ReadProgress([]byte(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

func TestOrigin(t *testing.T) {
	for _, o := range []wire.Origin{{0, 0}, {1, 127}, {1 << 20, 128}, {3, math.MaxInt64}} {
		b := wire.AppendOrigin(nil, o)
		if got, err := wire.ReadOrigin(b); err != nil || got != o {
			t.Errorf("%v comes back as %v, %v", o, got, err)
		}
		for i := range b {
			if got, err := wire.ReadOrigin(b[:i]); err == nil {
				t.Errorf("% x, cut to %d bytes, is %v", b, i, got)
			}
		}
		if _, err := wire.ReadOrigin(append(b, 0)); err == nil {
			t.Errorf("% x and one byte more is read", b)
		}
	}
	if o, err := wire.ReadOrigin(wire.AppendOrigin(nil, wire.Origin{Source: 0, Offset: -1})); err == nil {
		t.Errorf("an offset above int64 is read as %d", o.Offset)
	}
}

// A reader of many says of each what is said of it alone.
func TestProgressReader(t *testing.T) {
	var r wire.ProgressReader
	p := wire.Progress{Sources: wire.Sources{Revision: 1, List: []wire.Source{{Cluster: "a", Topic: "raw"}}}}
	for n := range int64(40) {
		if n%9 == 8 {
			p.Sources.Revision++
			p.Sources.List = append(p.Sources.List, wire.Source{Cluster: "a", Topic: "raw", Partition: int32(n), Kind: wire.KindMirror})
		}
		p.At, p.Aside = []wire.SourceAt{{Source: int(n) % len(p.Sources.List), MS: n, Offset: 2 * n}}, nil
		if n%5 == 0 {
			p.Aside = []int{int(n) / 5 % len(p.Sources.List)}
		}
		if got, err := r.Read(wire.AppendProgress(nil, &p)); err != nil || !reflect.DeepEqual(got, p) {
			t.Fatalf("%+v, %v, want %+v", got, err, p)
		}
		if _, err := r.Read([]byte(`{"sources":{}}`)); n == 20 && err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkProgress(b *testing.B) {
	p := wire.Progress{At: []wire.SourceAt{{Source: 7, MS: 1_767_612_000_000, Offset: 1 << 30}}}
	for i := range int32(980) {
		p.Sources.List = append(p.Sources.List, wire.Source{Cluster: "dc1", Topic: "beacons.raw", TopicID: "YWJjZGVmZ2hpamtsbW5vcA", Partition: i, Kind: wire.KindLive})
	}
	record := wire.AppendProgress(nil, &p)
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			if _, err := wire.ReadProgress(record); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		var r wire.ProgressReader
		for b.Loop() {
			if _, err := r.Read(record); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Logf("%d bytes", len(record))
}

func FuzzProgress(f *testing.F) {
	first := []byte(`{"sources":{"revision":1,"list":[{"cluster":"c","topic":"t","topic_id":"","partition":0,"kind":""}]},"at":[{"source":0,"ms":1,"offset":2}],"aside":null}`)
	f.Add(first)
	f.Add([]byte(`{"sources":{"revision":1,"list":[{"cluster":"c","topic":"t","topic_id":"","partition":0,"kind":""}]},"sources":{"revision":2},"at":[]}`))
	f.Add([]byte(`{"sources":{"revision":1,"list":[{"cluster":"c","topic":"t"}]},"at":[{"source":0,"ms":1,"offset":2}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.ReadProgress(b)
		var r wire.ProgressReader
		if _, err := r.Read(first); err != nil {
			t.Fatal(err)
		}
		if again, errAgain := r.Read(b); (err == nil) != (errAgain == nil) || err == nil && !reflect.DeepEqual(again, p) {
			t.Fatalf("%+v, %v, behind another %+v, %v", p, err, again, errAgain)
		}
		if err != nil {
			return
		}
		for _, a := range p.At {
			_ = p.Sources.List[a.Source]
		}
	})
}

func FuzzOrigin(f *testing.F) {
	f.Add(wire.AppendOrigin(nil, wire.Origin{Source: 1, Offset: 300}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := wire.ReadOrigin(b); err == nil && (o.Source < 0 || o.Offset < 0) {
			t.Fatalf("% x is %v", b, o)
		}
	})
}

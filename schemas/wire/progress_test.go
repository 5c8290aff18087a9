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

func FuzzProgress(f *testing.F) {
	f.Add([]byte(`{"sources":{"revision":1,"list":[{"cluster":"c","topic":"t"}]},"at":[{"source":0,"ms":1,"offset":2}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.ReadProgress(b)
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

package view

import (
	"slices"
	"testing"
)

func TestLayer(t *testing.T) {
	// In no order, two of them side by side, a gap between the others, one before the epoch and one empty.
	windows := []Window{{60, 90, "batch.3"}, {0, 30, "batch.1"}, {-30, 0, "batch.9"}, {30, 60, "batch.2"}, {120, 150, "batch.10"}, {200, 200, "batch.4"}}
	given := slices.Clone(windows)
	v := New("stream.dc1", windows)
	if !slices.Equal(windows, given) {
		t.Error("New has changed the caller's windows")
	}
	for _, c := range []struct {
		minute int64
		want   string // empty: the active stream
	}{
		{-1 << 62, ""}, {-31, ""}, {-30, "batch.9"}, {-1, "batch.9"}, {0, "batch.1"}, {29, "batch.1"}, {30, "batch.2"}, {59, "batch.2"},
		{60, "batch.3"}, {89, "batch.3"}, {90, ""}, {119, ""}, {120, "batch.10"}, {149, "batch.10"}, {150, ""}, {199, ""}, {200, ""},
		{201, ""}, {1 << 62, ""},
	} {
		layer, covered := v.Layer(c.minute)
		want, wantCovered := c.want, c.want != ""
		if !wantCovered {
			want = "stream.dc1"
		}
		if layer != want || covered != wantCovered {
			t.Errorf("minute %d: %s, covered %t; want %s, %t", c.minute, layer, covered, want, wantCovered)
		}
	}
}

func TestLayerWithoutWindows(t *testing.T) {
	for _, active := range []string{"stream.dc2", ""} {
		if layer, covered := New(active, nil).Layer(7); layer != active || covered {
			t.Errorf("%q without windows: %q, covered %t", active, layer, covered)
		}
	}
}

// Every minute of a run of windows is looked for by hand, for any number of windows and any order.
func TestLayerAsALinearSearch(t *testing.T) {
	for n := range 9 {
		var windows []Window
		for i := range n {
			from := int64(i*37%n) * 4
			windows = append(windows, Window{from, from + int64(1+i%4), "batch." + string(rune('a'+i))})
		}
		v := New("s", windows)
		for m := int64(-2); m < int64(n)*4+2; m++ {
			want, wantCovered := "s", false
			for _, w := range windows {
				if w.From <= m && m < w.To {
					want, wantCovered = w.Layer, true
				}
			}
			if got, covered := v.Layer(m); got != want || covered != wantCovered {
				t.Errorf("%d windows, minute %d: %s, %t; want %s, %t", n, m, got, covered, want, wantCovered)
			}
		}
	}
}

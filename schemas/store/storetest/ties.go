package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/schemas/store"
)

// Writers do not write two values with one version. Where one does, one of the two stands, whole, and the same one
// whatever came first.
func testTies(t *testing.T, h Harness) {
	m := h.minute()
	large := func(c string) string { return strings.Repeat(c, 200<<10) }
	for i, pair := range [][2]string{
		{"a", "b"}, {"", "a"}, {"a", "aa"}, {large("a"), large("b")}, {large("a"), large("a") + "a"},
		{large("a"), large("a") + large("b")}, {"b", large("a")}, {"a", large("b")},
	} {
		var stood []string
		for j, order := range [][]string{{pair[0], pair[1]}, {pair[1], pair[0]}, {pair[0], pair[1], pair[0]}} {
			minute := m + int64(10*i+j)
			for _, v := range order {
				h.put(t, store.Row{Series: home, Minute: minute, Version: 3, Value: []byte(v)})
			}
			got := h.got(t, home, minute, minute+1)
			if len(got) != 1 || got[0] != line(minute, 3, pair[0]) && got[0] != line(minute, 3, pair[1]) {
				t.Fatalf("pair %d: got %.50q, which is neither", i, got)
			}
			stood = append(stood, strings.TrimPrefix(got[0], fmt.Sprint(minute)))
			h.put(t, store.Row{Series: home, Minute: minute, Version: 4, Value: []byte("next")})
			want(t, "the next version", h.got(t, home, minute, minute+1), []string{line(minute, 4, "next")})
		}
		if len(slices.Compact(stood)) != 1 {
			t.Errorf("pair %d: the order decides: %.50q", i, stood)
		}
	}
}

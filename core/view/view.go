// Package view merges layers: for each minute the batch's generation that coverage names, else the active stream's
// (SPEC 9).
package view

import "slices"

// View says which layer a reader takes for a minute. It is resolved once per request, so that no answer mixes two
// generations or two data centres.
type View struct {
	Active  string // layer of the active stream
	Windows []Window
}

// Window is a covered window, [From, To) in minutes since the epoch.
type Window struct {
	From, To int64
	Layer    string // "batch.<generation>"
}

// New orders the windows, which do not overlap.
func New(active string, windows []Window) *View {
	w := slices.Clone(windows)
	slices.SortFunc(w, func(a, b Window) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return &View{Active: active, Windows: w}
}

// Layer returns the layer to read for a minute, and whether the batch has covered it.
func (v *View) Layer(minute int64) (layer string, covered bool) {
	i, found := slices.BinarySearchFunc(v.Windows, minute, func(w Window, m int64) int {
		switch {
		case w.To <= m:
			return -1
		case w.From > m:
			return 1
		}
		return 0
	})
	if found {
		return v.Windows[i].Layer, true
	}
	return v.Active, false
}

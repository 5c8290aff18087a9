package dispatch

import "tandem/schemas/wire"

// SourceState is how far a source is known to be, by any dispatcher.
type SourceState struct {
	wire.Source
	Known bool
	MS    int64 // time of the last record that was read
	Aside bool  // it lags too far: the stream does not wait for it
}

// Known returns how far all sources are known to be, in the order of their list.
func (t *Teller) Known() []SourceState {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]SourceState, len(t.sources.List))
	for i, s := range t.sources.List {
		all[i] = SourceState{Source: s}
		if i < len(t.view) {
			all[i].Known, all[i].MS, all[i].Aside = t.view[i].known, t.view[i].ms(), t.view[i].aside
		}
	}
	return all
}

package staterun

import "tandem/schemas/pages"

// maps are the values of the map columns of the row group at hand.
type maps struct {
	experiments, totals mapping
	variations          listing
	assigned, qualified []int64
	isQualified         []int32 // definition levels of qualified
	values              []int64
	reps, defs, last    []byte // scratch: levels of experiments, of qualified, of totals
}

// mapping has the keys of a map column, and its levels: of each entry, and of each row without one, whether it goes on with the row of the
// one before (Parquet's repetition level) and whether it is there (definition level).
type mapping struct {
	keys       listing
	reps, defs []int32
}

// listing are names as places in a dictionary of those that the row group has, in order of their first use.
type listing struct {
	names  []string // all there are
	at     []int32  // by name: its place, and 1; 0 without one
	used   []int32  // names, by place
	places []int32
}

func newListing(names []string) listing { return listing{names: names, at: make([]int32, len(names))} }

func (l *listing) add(name int32) {
	place := l.at[name]
	if place == 0 {
		l.used = append(l.used, name)
		place = int32(len(l.used))
		l.at[name] = place
	}
	l.places = append(l.places, place-1)
}

func (l *listing) reset() {
	for _, name := range l.used {
		l.at[name] = 0
	}
	l.used, l.places = l.used[:0], l.places[:0]
}

// dictionary is the page of the names, plain.
func (l *listing) dictionary() (page []byte) {
	for _, name := range l.used {
		page = pages.AppendText(page, l.names[name])
	}
	return page
}

func newMaps(names *Names) maps {
	return maps{experiments: mapping{keys: newListing(names.Experiments)}, variations: newListing(names.Variations), totals: mapping{keys: newListing(names.Totals)}}
}

func (m *mapping) row(entries int) {
	if entries == 0 {
		m.reps, m.defs = append(m.reps, 0), append(m.defs, 0)
		return
	}
	m.reps, m.defs = append(m.reps, 0), append(m.defs, 1)
	for range entries - 1 {
		m.reps, m.defs = append(m.reps, 1), append(m.defs, 1)
	}
}

func (m *mapping) reset() {
	m.keys.reset()
	m.reps, m.defs = m.reps[:0], m.defs[:0]
}

func (m *maps) reset() {
	m.experiments.reset()
	m.totals.reset()
	m.variations.reset()
	m.assigned, m.qualified, m.isQualified, m.values = m.assigned[:0], m.qualified[:0], m.isQualified[:0], m.values[:0]
}

// entries is how many there are, those of rows without any among them.
func (m *maps) entries() int { return len(m.experiments.reps) + len(m.totals.reps) }

func (m *maps) add(about *About) {
	m.experiments.row(len(about.Experiments))
	if len(about.Experiments) == 0 {
		m.isQualified = append(m.isQualified, 0)
	}
	for i := range about.Experiments {
		x := &about.Experiments[i]
		m.experiments.keys.add(x.Name)
		m.variations.add(x.Variation)
		m.assigned = append(m.assigned, x.Assigned)
		if !x.IsQualified {
			m.isQualified = append(m.isQualified, 1)
			continue
		}
		m.isQualified, m.qualified = append(m.isQualified, 2), append(m.qualified, x.Qualified)
	}
	m.totals.row(len(about.Totals))
	for _, t := range about.Totals {
		m.totals.keys.add(t.Name)
		m.values = append(m.values, t.Value)
	}
}

// mapColumn is a column of a map as a row group has it.
type mapColumn struct {
	path    []string
	names   *listing // nil: integers
	ints    []int64
	plain   bool // these, and not their differences
	entries int
	levels  []byte // what comes before a page's values
}

// flush hands out the columns, in order, and makes itself empty. What may be null is plain: arrow-go 17 loses its place in differences that
// have nulls among them, which a row without entries is not: it has no value to leave out.
func (m *maps) flush(column func(*mapColumn) error) error {
	x, t := &m.experiments, &m.totals
	m.reps = pages.AppendLevels(m.reps[:0], x.reps, 1)
	m.defs = pages.AppendLevels(append(m.defs[:0], m.reps...), m.isQualified, 2)
	m.reps = pages.AppendLevels(m.reps, x.defs, 1)
	m.last = pages.AppendLevels(pages.AppendLevels(m.last[:0], t.reps, 1), t.defs, 1)
	for _, c := range [...]mapColumn{
		{path: []string{"experiments", "key_value", "key"}, names: &x.keys, entries: len(x.reps), levels: m.reps},
		{path: []string{"experiments", "key_value", "value", "variation"}, names: &m.variations, entries: len(x.reps), levels: m.reps},
		{path: []string{"experiments", "key_value", "value", "assigned"}, ints: m.assigned, entries: len(x.reps), levels: m.reps},
		{path: []string{"experiments", "key_value", "value", "qualified"}, ints: m.qualified, plain: true, entries: len(x.reps), levels: m.defs},
		{path: []string{"totals", "key_value", "key"}, names: &t.keys, entries: len(t.reps), levels: m.last},
		{path: []string{"totals", "key_value", "value"}, ints: m.values, entries: len(t.reps), levels: m.last},
	} {
		if err := column(&c); err != nil {
			return err
		}
	}
	m.reset()
	return nil
}

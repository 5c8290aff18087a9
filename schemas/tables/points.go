package tables

import "fmt"

// Points writes the table of a download: a line for each formula, variation, group of tags and point. Its columns:
//
//	time      TIMESTAMP  start of the point, UTC
//	state     VARCHAR    final, provisional or unknown
//	formula   VARCHAR    its id
//	variation VARCHAR    '' for the site
//	TAG       VARCHAR    one for each tag that was grouped by, called tag_NAME
//	value     DOUBLE     null where it is undefined or not known
type Points struct {
	w                                *writer
	times, states, formulas, numbers *column
	variations                       *column
	tags                             []*column
}

// NewPoints begins a table with these tags.
func NewPoints(tags []string) *Points {
	p := &Points{times: &column{name: "time", kind: instant}, states: &column{name: "state", kind: text}, formulas: &column{name: "formula", kind: text},
		variations: &column{name: "variation", kind: text}, numbers: &column{name: "value", kind: double}}
	all := []*column{p.times, p.states, p.formulas, p.variations}
	for _, t := range tags {
		c := &column{name: "tag_" + t, kind: text}
		p.tags, all = append(p.tags, c), append(all, c)
	}
	p.w = newWriter(append(all, p.numbers)...)
	return p
}

// Add adds a line: time in ms since the epoch, tags in the order of NewPoints; a value of NaN is null.
func (p *Points) Add(time int64, state, formula, variation string, tags []string, value float64) error {
	p.times.ints = append(p.times.ints, time)
	p.states.text(state)
	p.formulas.text(formula)
	p.variations.text(variation)
	for i, t := range tags {
		p.tags[i].text(t)
	}
	p.numbers.double(value)
	if err := p.w.added(1); err != nil {
		return fmt.Errorf("table of points: %w", err)
	}
	return nil
}

// Finish returns the file.
func (p *Points) Finish() ([]byte, error) {
	data, err := p.w.finish()
	if err != nil {
		return nil, fmt.Errorf("table of points: %w", err)
	}
	return data, nil
}

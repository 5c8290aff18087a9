package read

import (
	"slices"

	"tandem/core/metric"
	"tandem/schemas/row"
)

// gathered adds up the cells of rows by the place that they go to and by part. Rows come in the order of their parts.
type gathered struct {
	places *places
	parts  int
	at     []amounts // by place; each has something

	reader  row.Reader
	scratch metric.Sketch // of the cell at hand
}

// amounts are those of a place by part: one of the two.
type amounts struct {
	sums []int64
	seen *seen // of visitors
}

// add adds a row to a part.
func (g *gathered) add(part int, value []byte) error {
	if err := g.reader.Reset(value); err != nil {
		return err
	}
	for g.reader.Next() {
		at, err := g.places.at(&g.reader)
		if err != nil {
			return err
		}
		if at < 0 {
			continue
		}
		for at >= len(g.at) {
			g.at = append(g.at, amounts{})
		}
		c, have := g.reader.Cell(), &g.at[at]
		if c.Sketch == nil {
			if have.sums == nil {
				have.sums = make([]int64, g.parts)
			}
			have.sums[part] += c.Value
			continue
		}
		if have.seen == nil {
			have.seen = &seen{parts: make([]*metric.Sketch, g.parts)}
		}
		if err := have.seen.add(part, c.Sketch, &g.scratch); err != nil {
			return err
		}
	}
	return g.reader.Err()
}

// since says whether there is anything from a part on.
func (a *amounts) since(part int) bool {
	if a.seen != nil {
		return slices.ContainsFunc(a.seen.all()[part:], func(s *metric.Sketch) bool { return s != nil })
	}
	return slices.ContainsFunc(a.sums[part:], func(v int64) bool { return v != 0 })
}

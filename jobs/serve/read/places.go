package read

import "tandem/schemas/row"

// places finds out once for the cells of a dictionary where they go, since most rows of a series have one of few.
type places struct {
	find  func(variation, tags string) (int, error) // -1: nowhere
	of    map[*row.Names][]int32                    // by the cell's place in the names: 2 more than where it goes, 0: not asked yet
	cells int                                       // in all of these

	names *row.Names
	now   []int32 // of these names
}

// placesCells bounds the memory: beyond it everything is found out anew.
const placesCells = 1 << 18

func newPlaces(find func(variation, tags string) (int, error)) *places {
	return &places{find: find, of: map[*row.Names][]int32{}}
}

// at is where the cell goes that the reader stands at.
func (p *places) at(r *row.Reader) (int, error) {
	names := r.Names()
	if names != p.names {
		p.turn(names)
	}
	v, t := r.Place()
	at := &p.now[v*len(names.Tags)+t]
	if *at == 0 {
		found, err := p.find(names.Variations[v], names.Tags[t])
		if err != nil {
			return 0, err
		}
		*at = int32(found) + 2
	}
	return int(*at) - 2, nil
}

// turn goes on with other names.
func (p *places) turn(names *row.Names) {
	now, known := p.of[names]
	if !known {
		n := len(names.Variations) * len(names.Tags)
		if p.cells += n; p.cells > placesCells {
			clear(p.of)
			p.cells = n
		}
		now = make([]int32, n)
		p.of[names] = now
	}
	p.names, p.now = names, now
}

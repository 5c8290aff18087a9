package metric

import "math"

// Pages are the pages of one scope and group in one minute, by variation and tag set.
type Pages struct {
	Minute   int64
	Keys     []Key
	Cells    []int64   // of the pages, one after another, each as many as the group has; none of visitors
	Sketches []*Sketch // of visitors, one a page

	// spare are sketches in memory of its own, of which used are in Sketches.
	spare []*Sketch
	used  int

	keys     []Key // scratch of insert
	cells    []int64
	sketches []*Sketch
	sketch   []byte // scratch of AppendBinary
}

// Row is the scope and the group of the pages, of which there is at least one (Key.Row).
func (p *Pages) Row() Key { return p.Keys[0].Row() }

// Reset makes it no pages and keeps the memory.
func (p *Pages) Reset() {
	p.Keys, p.Cells, p.Sketches, p.used = p.Keys[:0], p.Cells[:0], p.Sketches[:0], 0
}

// own returns an empty sketch in memory of its own, until Reset.
func (p *Pages) own() *Sketch {
	if p.used == len(p.spare) {
		p.spare = append(p.spare, &Sketch{})
	}
	s := p.spare[p.used]
	p.used++
	s.Reset()
	return s
}

// Add adds pages of the same scope and group, of another minute or of other sums. They stay as they are.
func (p *Pages) Add(o *Pages) {
	if p.lacks(o) {
		p.insert(o)
	}
	at, n := 0, len(o.Cells)/max(len(o.Keys), 1)
	for i, k := range o.Keys {
		for p.Keys[at] != k {
			at++
		}
		if n == 0 {
			p.Sketches[at].Merge(o.Sketches[i])
			continue
		}
		from, to := o.Cells[i*n:i*n+n], p.Cells[at*n:at*n+n]
		for c, v := range from {
			to[c] += v
		}
	}
}

// lacks says whether o has a page that p does not have.
func (p *Pages) lacks(o *Pages) bool {
	at := 0
	for _, k := range o.Keys {
		for at < len(p.Keys) && p.Keys[at] < k {
			at++
		}
		if at == len(p.Keys) || p.Keys[at] != k {
			return true
		}
	}
	return false
}

// insert makes empty pages of those that only o has.
func (p *Pages) insert(o *Pages) {
	n := len(o.Cells) / len(o.Keys)
	keys, cells, sketches := p.keys[:0], p.cells[:0], p.sketches[:0]
	i := 0
	old := func() {
		keys, cells = append(keys, p.Keys[i]), append(cells, p.Cells[i*n:i*n+n]...)
		if n == 0 {
			sketches = append(sketches, p.Sketches[i])
		}
		i++
	}
	for _, k := range o.Keys {
		for i < len(p.Keys) && p.Keys[i] <= k {
			old()
		}
		if i > 0 && p.Keys[i-1] == k {
			continue
		}
		keys, cells = append(keys, k), append(cells, zeros[:n]...)
		if n == 0 {
			sketches = append(sketches, p.own())
		}
	}
	for i < len(p.Keys) {
		old()
	}
	p.keys, p.cells, p.sketches = p.Keys, p.Cells, p.Sketches
	p.Keys, p.Cells, p.Sketches = keys, cells, sketches
}

// Walk goes over sums row by row: by scope and group, and only within them by minute. The sums must not change meanwhile.
type Walk struct {
	cells   func(group int) int
	minutes []*Minute
	rest    [][]slot // by minute: the pages to come
	row     Key
	next    int // the minute to look at for the row
}

// Walk begins one.
func (s *Sums) Walk(cells func(group int) int) *Walk {
	w := &Walk{cells: cells, minutes: s.minutes, next: len(s.minutes)}
	for _, m := range s.minutes {
		w.rest = append(w.rest, m.sorted())
	}
	return w
}

// Next puts the next pages into p, and is false if there are none any more. Pages of zeros and empty sketches are left out.
// The sketches are the sums' own: what is added to them is added there.
func (w *Walk) Next(p *Pages) bool {
	for {
		for w.next < len(w.minutes) {
			i := w.next
			w.next++
			if rest := w.rest[i]; len(rest) > 0 && rest[0].key.Row() == w.row && w.take(i, p) {
				return true
			}
		}
		least := Key(math.MaxUint64)
		for _, rest := range w.rest {
			if len(rest) > 0 {
				least = min(least, rest[0].key.Row())
			}
		}
		if least == math.MaxUint64 {
			return false
		}
		w.row, w.next = least, 0
	}
}

// take puts the pages of the row in a minute into p, and says if there are any.
func (w *Walk) take(i int, p *Pages) bool {
	m, rest := w.minutes[i], w.rest[i]
	p.Reset()
	p.Minute = m.Minute
	group := rest[0].key.Group()
	width, n := w.cells(group), 0
	for ; n < len(rest) && rest[n].key.Row() == w.row; n++ {
		s := rest[n]
		page := m.tables[own].cells[int(s.ref)+pageHead:][:width]
		if group == GroupSeen {
			if at := page[0]; at != 0 && !m.sketches[at-1].Empty() {
				p.Keys, p.Sketches = append(p.Keys, s.key), append(p.Sketches, m.sketches[at-1])
			}
			continue
		}
		any := int64(0)
		for _, v := range page {
			any |= v
		}
		if any != 0 {
			p.Keys, p.Cells = append(p.Keys, s.key), append(p.Cells, page...)
		}
	}
	w.rest[i] = rest[n:]
	return len(p.Keys) > 0
}

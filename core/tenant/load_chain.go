package tenant

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// File is a config file by its name, which errors show.
type File struct {
	Name string
	Data []byte
}

// LoadChain reads the revisions of one tenant, in any order, and returns them ordered by `from` (SPEC 10). At most
// one, the first in force, has no `from`. Its errors are of type *LoadError, or say that there is no file.
func LoadChain(files []File) ([]*Config, error) {
	revs, err := loadAll(files)
	if err != nil {
		return nil, err
	}
	for _, r := range revs {
		if r.cfg.HasTo {
			return nil, r.errorf(r.to, "`to` makes it a splice, which only a chain in storage can hold: tandem config apply puts it there")
		}
	}
	slices.SortStableFunc(revs, func(a, b *revision) int {
		switch {
		case !a.cfg.HasFrom && !b.cfg.HasFrom:
			return 0
		case !a.cfg.HasFrom:
			return -1
		case !b.cfg.HasFrom:
			return 1
		}
		return cmp.Compare(a.cfg.From, b.cfg.From)
	})
	return chained(revs)
}

func loadAll(files []File) ([]*revision, error) {
	if len(files) == 0 {
		return nil, fmt.Errorf("no config file; a tenant needs at least one")
	}
	var revs []*revision
	for _, f := range files {
		r, err := load(f.Name, f.Data)
		if err != nil {
			return nil, err
		}
		revs = append(revs, r)
	}
	for _, r := range revs[1:] {
		if r.cfg.Tenant != revs[0].cfg.Tenant {
			return nil, r.otherTenant(revs[0])
		}
	}
	return revs, nil
}

// chained checks what revisions, in order, say of one another.
func chained(revs []*revision) (configs []*Config, err error) {
	var s Sequence
	for _, r := range revs {
		if s, err = s.add(r); err != nil {
			return nil, err
		}
		configs = append(configs, r.cfg)
	}
	return configs, nil
}

// Sequence is what the configs of one tenant's chain in storage, in its order, say of one another: revisions, whose `from` grows, and
// splices, which have a `to`. The zero Sequence has none. It is a value: Add leaves it as it is.
type Sequence struct {
	first, last *revision       // last: that is no splice
	decimals    map[string]used // by "point.value", of all so far
}

// used is where a value's decimals were said first.
type used struct {
	decimals int
	file     string
}

// Document is a config file that was read.
type Document struct{ r *revision }

// Read reads a config file as Load does.
func Read(f File) (Document, error) {
	r, err := load(f.Name, f.Data)
	return Document{r}, err
}

// Config is what the file says.
func (d Document) Config() *Config { return d.r.cfg }

// Add appends a config. An error of type *LoadError says why it does not fit.
func (s Sequence) Add(d Document) (Sequence, error) {
	switch r := d.r; {
	case s.first == nil && r.cfg.HasTo:
		return s, r.errorf(r.to, "a splice is laid over a revision, and there is none")
	case s.first != nil && r.cfg.Tenant != s.first.cfg.Tenant:
		return s, r.otherTenant(s.first)
	}
	return s.add(d.r)
}

func (s Sequence) add(r *revision) (Sequence, error) {
	prev := s.last
	switch {
	case s.first == nil:
		s.first, s.last = r, r
	case r.cfg.HasTo && s.first.cfg.HasFrom && r.cfg.From < s.first.cfg.From:
		return s, r.errorf(r.from, "the splice begins before %s, the first revision of tenant %s", s.first.file, r.cfg.Tenant)
	case r.cfg.HasTo:
	case !r.cfg.HasFrom:
		return s, r.errorf(1, "no `from`, and %s has none either; only the first revision of tenant %s goes without", prev.file, r.cfg.Tenant)
	case prev.cfg.HasFrom && prev.cfg.From == r.cfg.From:
		return s, r.errorf(r.from, "the same `from` as %s; each revision of tenant %s needs its own minute", prev.file, r.cfg.Tenant)
	case prev.cfg.HasFrom && prev.cfg.From > r.cfg.From:
		return s, r.errorf(r.from, "`from` is before that of %s: it grows along the chain of tenant %s; what lies before is changed by a splice, which has a `to`", prev.file, r.cfg.Tenant)
	default:
		s.last = r
	}
	err := s.use(r)
	return s, err
}

// use refuses a change of a value's decimals, also of one that was dropped in between.
func (s *Sequence) use(r *revision) error {
	var wrong *LoadError
	cloned := false
	for _, p := range r.cfg.Points {
		for _, v := range p.Values {
			full := p.Name + "." + v.Name
			u, ok := s.decimals[full]
			if !ok {
				if !cloned { // the map before belongs to the Sequence before
					if s.decimals, cloned = maps.Clone(s.decimals), true; s.decimals == nil {
						s.decimals = map[string]used{}
					}
				}
				s.decimals[full] = used{v.Decimals, r.file}
				continue
			}
			if line := r.decimals[full]; u.decimals != v.Decimals && (wrong == nil || line < wrong.Line) {
				wrong = r.errorf(line, "%s has %d decimals, but %d in %s; the decimals of a value never change: use another name",
					full, v.Decimals, u.decimals, u.file)
			}
		}
	}
	if wrong != nil {
		return wrong
	}
	return nil
}

func (r *revision) errorf(line int, format string, args ...any) *LoadError {
	return &LoadError{File: r.file, Line: line, Msg: fmt.Sprintf(format, args...)}
}

func (r *revision) otherTenant(first *revision) *LoadError {
	return r.errorf(r.tenant, "tenant %s, but %s is of tenant %s; revisions of a chain are of one tenant", r.cfg.Tenant, first.file, first.cfg.Tenant)
}

package tenant

import (
	"cmp"
	"fmt"
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

// LoadObjects reads the configs of one tenant's chain in storage, in its order: revisions, whose `from` grows, and splices,
// which have a `to`.
func LoadObjects(files []File) ([]*Config, error) {
	revs, err := loadAll(files)
	if err != nil {
		return nil, err
	}
	if revs[0].cfg.HasTo {
		return nil, revs[0].errorf(revs[0].to, "a splice is laid over a revision, and there is none")
	}
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
		if first := revs[0]; r.cfg.Tenant != first.cfg.Tenant {
			return nil, r.errorf(r.tenant, "tenant %s, but %s is of tenant %s; revisions of a chain are of one tenant",
				r.cfg.Tenant, first.file, first.cfg.Tenant)
		}
	}
	return revs, nil
}

// chained checks what revisions, in order, say of one another.
func chained(revs []*revision) ([]*Config, error) {
	configs := []*Config{revs[0].cfg}
	prev := revs[0]
	for _, r := range revs[1:] {
		switch {
		case r.cfg.HasTo && revs[0].cfg.HasFrom && r.cfg.From < revs[0].cfg.From:
			return nil, r.errorf(r.from, "the splice begins before %s, the first revision of tenant %s", revs[0].file, r.cfg.Tenant)
		case r.cfg.HasTo:
			configs = append(configs, r.cfg)
			continue
		case !r.cfg.HasFrom:
			return nil, r.errorf(1, "no `from`, and %s has none either; only the first revision of tenant %s goes without", prev.file, r.cfg.Tenant)
		case prev.cfg.HasFrom && prev.cfg.From == r.cfg.From:
			return nil, r.errorf(r.from, "the same `from` as %s; each revision of tenant %s needs its own minute", prev.file, r.cfg.Tenant)
		case prev.cfg.HasFrom && prev.cfg.From > r.cfg.From:
			return nil, r.errorf(r.from, "`from` is before that of %s: it grows along the chain of tenant %s; what lies before is changed by a splice, which has a `to`", prev.file, r.cfg.Tenant)
		}
		configs = append(configs, r.cfg)
		prev = r
	}
	if err := sameDecimals(revs); err != nil {
		return nil, err
	}
	return configs, nil
}

// sameDecimals refuses a change of a value's decimals, also of one that was dropped in between.
func sameDecimals(revs []*revision) error {
	type use struct {
		decimals int
		file     string
	}
	used := map[string]use{}
	for _, r := range revs {
		var wrong *LoadError
		for _, p := range r.cfg.Points {
			for _, v := range p.Values {
				full := p.Name + "." + v.Name
				u, ok := used[full]
				if !ok {
					used[full] = use{v.Decimals, r.file}
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
	}
	return nil
}

func (r *revision) errorf(line int, format string, args ...any) *LoadError {
	return &LoadError{File: r.file, Line: line, Msg: fmt.Sprintf(format, args...)}
}

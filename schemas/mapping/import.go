package mapping

import (
	"errors"
	"fmt"
	"io"

	"github.com/expr-lang/expr/vm"

	"tandem/core/beacon"
	"tandem/schemas/records"
)

// Stats counts what an import did. Each row read is refused, left out or gives at least one record.
type Stats struct {
	Rows    int64 // read, refused ones included; not the header, not empty lines
	Records int64
	Refused int64
	LeftOut int64 // no `where` held
}

// Import reads rows from in, which is not compressed, and gives emit their records, in the order of the rows and of the
// mapping's blocks; a payload is valid until emit returns. A row that cannot be read or mapped, or one of whose beacons
// would be rejected whatever the tenant's config (core/beacon), gives no record at all: refused gets its line in the
// input, from 1, and the reason, and the import goes on.
//
// The error is that of emit, of reading in, or says which expression does not fit the input's columns; the
// stats then tell how far it came. Memory does not grow with the input, but for occurrence(): up to about 200 MB.
func (m *Mapping) Import(in io.Reader, emit func(records.Record) error, refused func(line int64, reason string)) (Stats, error) {
	var stats Stats
	rows, err := openRows(m, in)
	if err != nil {
		return stats, err
	}
	imp := importer{
		free: rows.columns() == nil,
		env:  map[string]any{},
		occ:  &occurrences{max: maxOccurrences, table: map[uint64]occurrence{}},
	}
	if err := imp.compile(m, rows.columns()); err != nil {
		return stats, err
	}
	var r row
	for {
		err := rows.next(&r)
		if err == io.EOF {
			return stats, nil
		}
		imp.out = imp.out[:0]
		if err == nil {
			err = imp.row(&r)
		}
		var no refusal
		if err != nil && !errors.As(err, &no) {
			return stats, err
		}
		stats.Rows++
		switch {
		case err != nil:
			stats.Refused++
			imp.out = imp.out[:0]
			refused(r.line, no.reason)
		case len(imp.out) == 0:
			stats.LeftOut++
		}
		for _, rec := range imp.out {
			if err := emit(rec); err != nil {
				return stats, err
			}
			stats.Records++
		}
	}
}

// importer is a mapping at work.
type importer struct {
	blocks []boundBlock
	free   bool           // the columns differ from row to row
	env    map[string]any // what expressions see of the row
	occ    *occurrences
	vm     vm.VM
	parser beacon.Parser
	parsed beacon.Beacon
	out    []records.Record // of the row
}

// boundBlock is a block with its expressions compiled.
type boundBlock struct {
	where                      []*program
	ingest                     *program
	fields                     [len(fieldNames)]*program
	values, attrs, experiments []boundNamed
}

type boundNamed struct {
	name string
	*program
}

func (im *importer) compile(m *Mapping, columns []string) error {
	var err error
	one := func(src *source) *program {
		if src == nil || err != nil {
			return nil
		}
		var p *program
		p, err = src.compile(columns, im.occ)
		return p
	}
	all := func(list []named) (bound []boundNamed) {
		for _, n := range list {
			bound = append(bound, boundNamed{n.name, one(n.src)})
		}
		return bound
	}
	for i := range m.blocks {
		b := &m.blocks[i]
		var c boundBlock
		for _, src := range b.where {
			c.where = append(c.where, one(src))
		}
		c.ingest = one(b.ingest)
		for f, src := range b.fields {
			c.fields[f] = one(src)
		}
		c.values, c.attrs, c.experiments = all(b.values), all(b.attrs), all(b.experiments)
		im.blocks = append(im.blocks, c)
	}
	return err
}

// row fills im.out with the records of a row; an error is a refusal.
func (im *importer) row(r *row) error {
	im.occ.row = r.line
	if im.free {
		cols := plain(r.cols).(map[string]any)
		clear(im.env)
		for name, v := range cols {
			im.env[name] = v
		}
		im.env["row"] = cols
	} else {
		for name, v := range r.cols {
			im.env[name] = v
		}
		im.env["row"] = r.cols
	}
	im.env["line"] = int(r.line)
	for i := range im.blocks {
		b := &im.blocks[i]
		holds, err := im.holds(b.where, r)
		if err != nil {
			return err
		}
		if !holds {
			continue
		}
		rec, err := im.record(b, r)
		if err != nil {
			return err
		}
		im.out = append(im.out, rec)
	}
	return nil
}

func (im *importer) holds(where []*program, r *row) (bool, error) {
	for _, p := range where {
		v, err := p.eval(&im.vm, r, im.env)
		if err != nil {
			return false, err
		}
		ok, isBool := v.(bool)
		if !isBool {
			return false, p.refuse(fmt.Sprintf("%v is neither true nor false", v))
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

func (im *importer) record(b *boundBlock, r *row) (records.Record, error) {
	bc, err := im.beacon(b, r)
	if err != nil {
		return records.Record{}, err
	}
	ingest := bc.TS
	if b.ingest != nil {
		v, err := b.ingest.eval(&im.vm, r, im.env)
		if err != nil {
			return records.Record{}, err
		}
		ms, ok, err := asTime(v)
		if err != nil {
			return records.Record{}, b.ingest.refuse(err.Error())
		}
		if ok {
			ingest = ms
		}
	}
	if ingest < 0 || ingest > records.MaxIngest {
		return records.Record{}, refuse("ingest: %d ms is not within 0 to %d", ingest, int64(records.MaxIngest))
	}
	payload := bc.AppendJSON(nil)
	if reason := im.parser.Parse(payload, &im.parsed); reason != beacon.None {
		return records.Record{}, refuse("its beacon would be rejected as %s", reason)
	}
	return records.Record{Ingest: ingest, HasIngest: true, Payload: payload}, nil
}

// beacon works out the fields in the order in which they are written.
func (im *importer) beacon(b *boundBlock, r *row) (bc records.Beacon, err error) {
	for f, p := range b.fields {
		if p == nil {
			continue
		}
		v, err := p.eval(&im.vm, r, im.env)
		if err != nil {
			return bc, err
		}
		var ok bool
		switch f {
		case fID:
			bc.ID, ok, err = asText(v)
		case fTenant:
			bc.Tenant, ok, err = asText(v)
		case fSession:
			bc.Session, ok, err = asText(v)
		case fVisitor:
			bc.Visitor, _, err = asText(v)
			ok = true
		case fTS:
			bc.TS, ok, err = asTime(v)
		case fPoint:
			bc.Point, _, err = asText(v)
			ok = true
		case fDevice:
			bc.Device, _, err = asText(v)
			ok = true
		case fLogin:
			bc.Login, err = asBool(v)
			ok = true
		}
		if err != nil {
			return bc, p.refuse(err.Error())
		}
		if !ok {
			return bc, p.refuse("it is empty; every beacon has one")
		}
	}
	bc.Experiments, err = im.members(b.experiments, r, func(name string, v any) (records.Member, bool, error) {
		s, ok, err := asText(v)
		return records.Text(name, s), ok, err
	})
	if err != nil {
		return bc, err
	}
	bc.Values, err = im.members(b.values, r, func(name string, v any) (records.Member, bool, error) {
		d, ok, err := asDecimal(v)
		return records.Number(name, d), ok, err
	})
	if err != nil {
		return bc, err
	}
	bc.Attrs, err = im.members(b.attrs, r, asAttr)
	return bc, err
}

func (im *importer) members(list []boundNamed, r *row, as func(string, any) (records.Member, bool, error)) ([]records.Member, error) {
	var ms []records.Member
	for _, n := range list {
		v, err := n.eval(&im.vm, r, im.env)
		if err != nil {
			return nil, err
		}
		m, ok, err := as(n.name, v)
		if err != nil {
			return nil, n.refuse(err.Error())
		}
		if ok {
			ms = append(ms, m)
		}
	}
	return ms, nil
}

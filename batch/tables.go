package batch

import (
	"errors"
	"fmt"

	"tandem/schemas/blob"
	"tandem/schemas/tables"
)

// tableWriter makes the tables for SQL of a window that is about to be covered: its rows, then what its coverage says. Whoever
// finds them there has them whole. Both may be a moment ahead of the coverage that the store's readers see.
type tableWriter struct {
	job   *Job
	rows  *tables.Rows  // nil: none are wanted
	cells []tables.Cell // scratch
}

func (j *Job) tables(t *tableWriter, c *Covered) {
	if j.OnTime || j.noTables {
		return
	}
	if t.job = j; t.rows == nil {
		t.rows = tables.NewRows()
	}
	t.rows.Start(c.Window, c.Generation)
}

// keep writes the tables once all minutes are there, and c counts the rows of the store.
func (t *tableWriter) keep(c *Covered) error {
	if t.rows == nil {
		return nil
	}
	data, err := t.rows.Finish()
	if err != nil {
		return err
	}
	name := t.job.Chain.Tenant
	if err := t.job.keepTable(tables.RowsName(name, c.Window, c.Generation), data); err != nil {
		return err
	}
	cov := tables.Coverage{Window: c.Window, Generation: c.Generation, Beacons: c.Counts.Records, Late: c.Counts.Late,
		Duplicates: c.Counts.Duplicate, Rows: c.Rows}
	for i := range c.Files {
		cov.Sessions += c.Files[i].Rows
	}
	if data, err = cov.Encode(); err != nil {
		return err
	}
	return t.job.keepTable(tables.CoverageName(name, c.Window, c.Generation), data)
}

func (j *Job) keepTable(name string, data []byte) error {
	if err := j.Blobs.Create(name, data); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("table: %w", err)
	}
	return nil
}

// tablesOf are the names of the tables of a piece, that of its coverage first.
func (j *Job) tablesOf(p piece) []string {
	return []string{tables.CoverageName(j.Chain.Tenant, p.Window, p.Generation), tables.RowsName(j.Chain.Tenant, p.Window, p.Generation)}
}

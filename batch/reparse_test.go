package batch

import (
	"context"
	"testing"

	"tandem/core/session"
	"tandem/schemas/blob"
)

// Parsed columns that another parser made under the digest in force, as one whose change the digest does not tell, are
// taken as they are, and passed over by a plan that parses again, whoever goes on with it.
func TestReparse(t *testing.T) {
	chain, configs := compiled(t)
	records := traffic(20)
	want, _ := wanted(t, configs, records, false)
	blobs := blob.NewMem()
	for p, rows := range parse(chain, records) {
		var read session.Run
		for i := range rows {
			if read.Reset(); len(rows[i].Event) == 0 {
				continue
			}
			if _, err := read.Decode(rows[i].Event); err != nil {
				t.Fatal(err)
			}
			read.Events[0].Tags = 0
			rows[i].Event = session.AppendEvent(nil, &read.Events[0])
		}
		add(t, blobs, chain, int32(p), rows, session.MaxTS)
	}
	objects := copyOf(t, blobs)
	outcomeWith := func(reparse bool) outcome {
		j, st := job(t, chain, objects(), 2)
		j.Reparse = reparse
		run(t, j)
		return outcomeOf(t, j, st)
	}
	wrong := outcomeWith(false)
	if got := outcomeWith(true); len(got.rows) == len(wrong.rows) && got.rows[0] == wrong.rows[0] {
		t.Error("the parsed columns are no other than what the parser makes")
	} else {
		sameLines(t, "rows", got.rows, want)
	}

	j, st := job(t, chain, objects(), 2)
	began, _, err := j.Plan(context.Background())
	if err != nil || began == nil {
		t.Fatal(began, err)
	}
	j.Reparse = true
	p, a, err := j.Plan(context.Background())
	if err != nil || p.Generation == began.Generation || !p.Reparse {
		t.Fatalf("with Reparse the plan is %+v, %v; the one before was claimed without", p, err)
	}
	j.Reparse = false
	if again, _, err := j.Plan(context.Background()); err != nil || again.Generation != p.Generation {
		t.Fatalf("the plan that was begun is not gone on with: %+v, %v", again, err)
	}
	must(t, j.MapAll(context.Background(), p, a))
	run(t, j)
	sameLines(t, "rows", outcomeOf(t, j, st).rows, want)
}

package archive

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Sort comes to the one order of files, however many rows there are, wherever their hashes lie, and whatever they have in common.
func TestSortIsTheOrderOfFiles(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	few := []uint64{0, 1, 1<<58 - 1, 1 << 58, 1<<60 - 1, 1 << 60, 1<<63 - 1, 1 << 63, ^uint64(0) - 1, ^uint64(0)}
	text := func() []byte { return []byte{"ab"[r.IntN(2)]} }
	for _, n := range []int{0, 1, 2, 9, nearRows - 1, 2*nearRows - 1, 2 * nearRows, 2*nearRows + 1, 5 * nearRows} {
		for name, hash := range map[string]func() uint64{
			"spread":       r.Uint64,
			"of a part":    func() uint64 { return 5<<60 | r.Uint64()>>8 },
			"at the edges": func() uint64 { return few[r.IntN(len(few))] },
			"alike":        func() uint64 { return 1 << 63 },
		} {
			rows := make([]Row, n)
			for i := range rows {
				rows[i] = Row{Hash: hash(), Session: text(), TS: r.Int64N(3), ID: text(), Payload: text(), Ingest: r.Int64N(2), Offset: int64(i)}
			}
			r.Shuffle(n, func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
			want := slices.Clone(rows)
			slices.SortFunc(want, func(a, b Row) int { return Compare(&a, &b) })
			Sort(rows)
			for i := range rows {
				if rows[i].Offset != want[i].Offset {
					t.Fatalf("%d rows, hashes %s: row %d is that of offset %d, not %d", n, name, i, rows[i].Offset, want[i].Offset)
				}
			}
		}
	}
}

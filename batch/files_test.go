package batch

import (
	"context"
	"testing"

	"tandem/schemas/archive"
	"tandem/schemas/blob"
)

// Small files are held whole as long as there is room, and read in pieces beyond; both give the same rows. What a task holds is told
// before it begins.
func TestFilesAreHeldWhileThereIsRoom(t *testing.T) {
	ctx := context.Background()
	chain, configs := compiled(t)
	records := traffic(31)
	want, _ := wanted(t, configs, records, false)
	for _, room := range []int64{0, 20_000, maxHeldBytes} {
		blobs := blob.NewMem()
		put(t, blobs, chain, records, 12)
		j, st := job(t, chain, blobs, 4)
		told := int64(0)
		j.Holds = func(bytes int64) { told = bytes }
		p, a, err := j.Plan(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var windows []int
		for i := range p.Windows {
			windows = append(windows, i)
		}
		l := j.line(p, a, windows, everyRange(p))
		l.reduces, l.files.room = true, room
		var infos []archive.FileInfo
		largest, all := int64(0), int64(0)
		for i := range p.Windows {
			files := filesOf(&p.Windows[i], a)
			held := int64(0)
			for k := range files {
				held += files[k].Held()
			}
			largest, infos = max(largest, held), append(infos, files...)
		}
		if told != largest || told == 0 {
			t.Errorf("told is that a task holds %d bytes, want %d", told, largest)
		}
		seen := map[string]bool{}
		for _, info := range infos {
			if seen[info.Name] {
				continue
			}
			seen[info.Name] = true
			all += info.Bytes
			if _, err := l.files.get(info); err != nil {
				t.Fatal(err)
			}
		}
		if l.files.bytes > room || all > room && l.files.bytes+100_000 < room || all <= room && l.files.bytes != all {
			t.Errorf("with room for %d bytes of %d, %d are held", room, all, l.files.bytes)
		}
		for name := range seen {
			l.files.done([]string{name})
		}
		if err := l.run(ctx); err != nil { // it closes them
			t.Fatal(err)
		}
		if l.files.bytes != 0 {
			t.Errorf("%d bytes are held by no file", l.files.bytes)
		}
		run(t, j) // what is left
		sameLines(t, "rows", outcomeOf(t, j, st).rows, want)
	}
}

package batch

import (
	"context"
	"slices"
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
	for _, share := range []float64{0, 0.5, 1} {
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
		l.reduces = true
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
		seen := map[string]bool{}
		infos = slices.DeleteFunc(infos, func(f archive.FileInfo) bool {
			twice := seen[f.Name]
			seen[f.Name] = true
			return twice
		})
		for _, info := range infos {
			all += info.Bytes
		}
		room := int64(share * float64(all))
		l.files.room = room
		for _, info := range infos {
			if _, err := l.files.get(info); err != nil {
				t.Fatal(err)
			}
		}
		bytes := l.files.bytes
		// Those that nobody reads any more make room for others.
		var held, lean []archive.FileInfo
		for _, info := range infos {
			if l.files.done([]string{info.Name}); l.files.open[info.Name].bytes > 0 {
				held = append(held, info)
			} else if lean = append(lean, info); bytes+info.Bytes <= room {
				t.Errorf("with room for %d bytes, of which %d are held, a file of %d is not", room, bytes, info.Bytes)
			}
		}
		if bytes > room {
			t.Errorf("with room for %d bytes %d are held", room, bytes)
		}
		if (len(lean) == 0) != (share == 1) || (len(held) == 0) != (share == 0) {
			t.Fatalf("with room for %d bytes of %d, %d files are held and %d not", room, all, len(held), len(lean))
		}
		for _, info := range lean {
			l.files.drop(info.Name)
			l.files.idle--
			if _, err := l.files.get(info); err != nil {
				t.Fatal(err)
			}
			if (l.files.open[info.Name].bytes > 0) != (share > 0) || l.files.bytes > room {
				t.Errorf("%d bytes are held in room of %d, of a file of %d bytes %d", l.files.bytes, room, info.Bytes, l.files.open[info.Name].bytes)
			}
			l.files.done([]string{info.Name})
		}
		if err := l.run(ctx); err != nil { // it closes them
			t.Fatal(err)
		}
		if told != largest || told == 0 {
			t.Errorf("told is that a task holds %d bytes, want %d", told, largest)
		}
		if l.files.bytes != 0 {
			t.Errorf("%d bytes are held by no file", l.files.bytes)
		}
		run(t, j) // what is left
		sameLines(t, "rows", outcomeOf(t, j, st).rows, want)
	}
}

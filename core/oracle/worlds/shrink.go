package worlds

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"tandem/core/oracle"
)

// maxTries bounds how often Shrink asks.
const maxTries = 2000

// Shrink looks for a smaller world that still fails, where w does. It leaves out records, revisions, lines of the
// configs and members of the payloads, shortens names and takes delays away, one step after the other as long as the
// world goes on failing, and asks at most 2,000 times. Only worlds whose configs load are asked about.
func Shrink(w World, fails func(World) bool) World {
	s := &shrinker{world: w, fails: fails, tries: maxTries}
	for {
		size := s.steps
		s.dropRecords()
		s.dropRevisions()
		s.dropLines()
		s.dropMembers()
		s.simplify()
		if s.steps == size || s.tries <= 0 {
			return s.world
		}
	}
}

type shrinker struct {
	world World
	fails func(World) bool
	tries int
	steps int // taken
}

// try takes the smaller world if it still fails.
func (s *shrinker) try(w World) bool {
	if s.tries <= 0 {
		return false
	}
	if _, err := w.Chain(); err != nil {
		return false
	}
	s.tries--
	if !s.fails(w) {
		return false
	}
	s.world = w
	s.steps++
	return true
}

// without leaves out n elements of a list from i on.
func without[T any](list []T, i, n int) []T {
	return slices.Concat(list[:i], list[min(i+n, len(list)):])
}

// dropRecords leaves out runs of records: halves first, single ones last.
func (s *shrinker) dropRecords() {
	for n := (len(s.world.Records) + 1) / 2; n > 0; n /= 2 {
		for i := 0; i < len(s.world.Records); {
			w := s.world
			if w.Records = without(w.Records, i, n); !s.try(w) {
				i += n
			}
		}
	}
}

func (s *shrinker) dropRevisions() {
	for i := 0; i < len(s.world.Configs); {
		w := s.world
		if w.Configs = without(w.Configs, i, 1); !s.try(w) {
			i++
		}
	}
}

// dropLines leaves out lines of the configs, in all revisions where it stands at once, else in one.
func (s *shrinker) dropLines() {
	seen := map[string]bool{}
	for _, text := range s.world.Configs {
		for line := range strings.Lines(text) {
			if seen[line] {
				continue
			}
			seen[line] = true
			w := s.world
			w.Configs = nil
			for _, text := range s.world.Configs {
				w.Configs = append(w.Configs, strings.Replace(text, line, "", 1))
			}
			s.try(w)
		}
	}
	for k := range s.world.Configs {
		for i := 0; i < strings.Count(s.world.Configs[k], "\n"); {
			w := s.world
			w.Configs = slices.Clone(w.Configs)
			w.Configs[k] = strings.Join(without(strings.SplitAfter(w.Configs[k], "\n"), i, 1), "")
			if !s.try(w) {
				i++
			}
		}
	}
}

// edit tries another record in the place of record i.
func (s *shrinker) edit(i int, r oracle.Record) bool {
	w := s.world
	w.Records = slices.Clone(w.Records)
	w.Records[i] = r
	return s.try(w)
}

// dropMembers leaves out members of payloads, and members of their members.
func (s *shrinker) dropMembers() {
	for i := range s.world.Records {
		for _, name := range slices.Sorted(maps.Keys(object(s.world.Records[i].Payload))) {
			r := s.world.Records[i]
			fields := object(r.Payload)
			delete(fields, name)
			if r.Payload = encode(fields); s.edit(i, r) {
				continue
			}
			inner := object(object(s.world.Records[i].Payload)[name])
			for _, member := range slices.Sorted(maps.Keys(inner)) {
				r := s.world.Records[i]
				fields := object(r.Payload)
				rest := object(fields[name])
				delete(rest, member)
				fields[name] = encode(rest)
				r.Payload = encode(fields)
				s.edit(i, r)
			}
		}
	}
}

// simplify shortens names, in all records at once, and takes delays away.
func (s *shrinker) simplify() {
	for _, name := range []string{"session", "visitor", "id"} {
		seen := map[string]bool{}
		for _, r := range s.world.Records {
			if old := string(object(r.Payload)[name]); old != "" {
				seen[old] = true
			}
		}
		for k, old := range slices.Sorted(maps.Keys(seen)) {
			short := text(string(rune('a' + min(k, 25))))
			if old == short || seen[short] {
				continue
			}
			w := s.world
			w.Records = slices.Clone(w.Records)
			for i, r := range w.Records {
				if fields := object(r.Payload); string(fields[name]) == old {
					fields[name] = json.RawMessage(short)
					w.Records[i].Payload = encode(fields)
				}
			}
			seen[short] = s.try(w)
		}
	}
	for i, r := range s.world.Records {
		if ts, ok := eventTime(r.Payload); ok && r.Ingest != ts {
			r.Ingest = ts
			s.edit(i, r)
		}
	}
}

// object reads a JSON object, nil if it is none.
func object(data []byte) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return nil
	}
	return fields
}

// encode writes an object, of a beacon with who and when first.
func encode(fields map[string]json.RawMessage) []byte {
	var b bytes.Buffer
	first := []string{"id", "tenant", "session", "ts"}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(fields)), func(n string) bool { return slices.Contains(first, n) })
	for _, name := range append(first, names...) {
		if v, ok := fields[name]; ok {
			b.WriteString(map[bool]string{true: "{", false: ","}[b.Len() == 0])
			b.WriteString(text(name) + ":")
			b.Write(v)
		}
	}
	if b.Len() == 0 {
		b.WriteByte('{')
	}
	b.WriteByte('}')
	return b.Bytes()
}

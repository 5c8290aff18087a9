package aggregate

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// A restart reads from its commit on. What it must know of the messages before goes with the commit: how far each shard has told,
// and its generations. Else what a former owner told late, behind messages of the generation that had taken its place, would count
// again where all of these lie before the commit, in rows of a version that has another value (simulation, seed 5004183).

// MaxNote bounds a note, in bytes: brokers refuse more beside a commit (offset.metadata.max.bytes). A shard takes some 4, so it has
// room for about 1,000 of them; of more there is no note, and a restart takes each shard as it is heard.
const MaxNote = 4096

// notePrefix tells a note from what others may have put beside a commit, and names its format.
const notePrefix = "tandem1:" // clients put their names beside commits, and no name has a colon

// past is what was heard of a shard before some offset.
type past struct {
	mark        int64
	generations generations // a prefix of the shard's
}

// change is what a message changed of a shard's past.
type change struct {
	offset int64
	tenant *tenantState
	shard  int
	past
}

// hear notes what a message has changed of a shard.
func (s *State) hear(t *tenantState, shard int, offset int64) {
	s.changes = append(s.changes, change{offset, t, shard, past{t.marks[shard], t.generations[shard]}})
}

// Heard is the note to a commit: what was heard before its offset. To be asked for offsets in order, with each as Commit has given
// it. A generation is left out where a later one stands of all minutes that are open.
func (s *State) Heard(commit int64) string {
	n := 0
	for n < len(s.changes) && s.changes[n].offset < commit {
		c := &s.changes[n]
		if c.shard == len(c.tenant.past) { // a shard gets its number with its first change
			c.tenant.past = append(c.tenant.past, c.past)
		} else {
			c.tenant.past[c.shard] = c.past
		}
		n++
	}
	s.changes = slices.Delete(s.changes, 0, n)
	marks := []int64{0}
	for _, t := range s.tenants {
		for i := range t.past {
			marks = append(marks, t.past[i].mark)
		}
	}
	slices.Sort(marks)
	base := marks[len(marks)/2] // most are within minutes of it
	note, open := binary.AppendUvarint(nil, uint64(base)), s.least()
	for _, name := range slices.Sorted(maps.Keys(s.tenants)) {
		note = s.tenants[name].appendNote(note, base, open)
	}
	if base64.RawStdEncoding.EncodedLen(len(note))+len(notePrefix) > MaxNote {
		return ""
	}
	return notePrefix + base64.RawStdEncoding.EncodeToString(note)
}

// appendNote appends, for each topic of which a shard was heard: the tenant, the topic, the number of shards, and of each
// its partition, its mark and the generations that decide of minutes from open on. Minutes are less base, partitions less the one
// before, and a generation's number is doubled, odd if another one follows.
func (t *tenantState) appendNote(b []byte, base, open int64) []byte {
	byTopic := map[string][]shardID{}
	for id, i := range t.shards {
		if i < len(t.past) {
			byTopic[id.topic] = append(byTopic[id.topic], id)
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(byTopic)) {
		ids := byTopic[topic]
		slices.SortFunc(ids, func(a, b shardID) int { return int(a.partition - b.partition) })
		b = appendText(appendText(b, t.Name), topic)
		b = binary.AppendUvarint(b, uint64(len(ids)))
		before := int32(0)
		for _, id := range ids {
			p := &t.past[t.shards[id]]
			b = binary.AppendUvarint(b, uint64(id.partition-before))
			before = id.partition
			b = binary.AppendVarint(b, p.mark-base)
			kept := p.generations.from(open)
			for i, g := range kept {
				more := uint64(0)
				if i < len(kept)-1 {
					more = 1
				}
				if b = binary.AppendUvarint(b, uint64(g.n)<<1|more); i > 0 {
					b = binary.AppendVarint(b, g.first-base)
				}
			}
		}
	}
	return b
}

// from are the generations that decide of minutes from one on: the last that begins before it or with it, and those after that.
func (g generations) from(minute int64) generations {
	for i := len(g) - 1; i > 0; i-- {
		if g[i].first <= minute {
			return g[i:]
		}
	}
	return g
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// recall takes up what a note says. Topics that a tenant does not have any more are passed over, and so are notes of others.
func (s *State) recall(note string) error {
	text, ours := strings.CutPrefix(note, notePrefix)
	if !ours {
		return nil
	}
	data, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("it is no base64: %w", err)
	}
	r := noteReader{b: data}
	base := int64(r.uvarint(math.MaxInt64))
	for len(r.b) > 0 && r.err == nil {
		tenant, topic := r.text(), r.text()
		t := s.tenants[tenant]
		if t != nil && !slices.Contains(t.Topics, topic) {
			t = nil
		}
		id := shardID{topic: topic}
		for range r.uvarint(MaxNote) {
			id.partition += int32(r.uvarint(uint64(math.MaxInt32 - id.partition)))
			p := past{mark: r.minute(base)}
			for more := true; more; {
				n := r.uvarint(math.MaxUint64)
				g := generation{int64(n >> 1), math.MinInt64}
				if len(p.generations) > 0 {
					g.first = r.minute(base)
					if before := p.generations[len(p.generations)-1]; r.err == nil && g.n <= before.n {
						r.err = fmt.Errorf("partition %d of topic %s has generation %d after %d", id.partition, topic, g.n, before.n)
					}
				}
				p.generations, more = append(p.generations, g), n&1 == 1
			}
			if t == nil || r.err != nil {
				continue
			}
			i, fresh := t.shard(id)
			if !fresh {
				return fmt.Errorf("partition %d of topic %s is there twice", id.partition, topic)
			}
			t.marks[i], t.generations[i] = p.mark, p.generations
			t.past = append(t.past, p)
		}
	}
	return r.err
}

var (
	errShortNote = errors.New("it ends too early")
	errNumber    = errors.New("a number is out of range")
)

// noteReader reads a note; after an error all is zero.
type noteReader struct {
	b   []byte
	err error
}

func (r *noteReader) fail(err error) {
	r.b = nil
	if r.err == nil {
		r.err = err
	}
}

// took goes past a number of n bytes, as binary tells them, if it is good.
func (r *noteReader) took(n int, good bool) bool {
	switch {
	case n == 0:
		r.fail(errShortNote)
	case n < 0 || !good:
		r.fail(errNumber)
	default:
		r.b = r.b[n:]
		return true
	}
	return false
}

func (r *noteReader) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if !r.took(n, v <= most) {
		return 0
	}
	return v
}

// minute is a minute that is told by its distance from another. None is before 0: marks rise from there.
func (r *noteReader) minute(base int64) int64 {
	d, n := binary.Varint(r.b)
	if !r.took(n, d >= -base && d <= math.MaxInt64-base) {
		return 0
	}
	return base + d
}

func (r *noteReader) text() string {
	n := int(r.uvarint(MaxNote))
	if n > len(r.b) {
		r.fail(errShortNote)
		return ""
	}
	text := string(r.b[:n])
	r.b = r.b[n:]
	return text
}

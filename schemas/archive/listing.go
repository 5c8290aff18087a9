package archive

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"

	"tandem/schemas/blob"
)

// Listing is a tenant's event files, by partition, as their names say, for checks against the ends of chains.
type Listing map[string][]listedFile

// listedFile is an event file. first is where its manifest, or its compaction, begins; next is where the latter ends, 0 for a manifest's own.
type listedFile struct {
	name        string
	first, next int64
}

// ListFiles lists a tenant's event files. What is listed before a chain is read was written before.
func ListFiles(b blob.Store, tenant string) (Listing, error) {
	names, err := b.List("events/tenant=" + tenant + "/")
	if err != nil {
		return nil, fmt.Errorf("event files of %s: %w", tenant, err)
	}
	l := Listing{}
	for _, name := range names {
		m := fileName.FindStringSubmatch(path.Base(name))
		if m == nil {
			continue
		}
		f := listedFile{name: name}
		if f.first, err = strconv.ParseInt(m[2], 10, 64); err != nil {
			continue
		}
		if m[3] != "" {
			if f.next, err = strconv.ParseInt(m[3], 10, 64); err != nil {
				continue
			}
		}
		l[m[1]] = append(l[m[1]], f)
	}
	return l, nil
}

var fileName = regexp.MustCompile(`^(.+-\d{1,10})-(\d{20})(?:-(\d{20}))?-\d+\.parquet$`)

// Beyond names an event file of a partition that begins behind the end of its chain: the manifests between are gone, since an archiver
// writes files of the next manifest only. It is "" if there is none.
func (l Listing) Beyond(topic string, partition int32, end int64) string {
	least := listedFile{first: math.MaxInt64}
	for _, f := range l.of(topic, partition) {
		if f.first > end && f.first < least.first {
			least = f
		}
	}
	return least.name
}

func (l Listing) of(topic string, partition int32) []listedFile {
	return l[fmt.Sprintf("%s-%d", topic, partition)]
}

// Behind names the event files of a partition that hold only offsets before next, where a manifest ends: also those that a compaction
// has replaced, and what was left by whoever was ended before.
func (l Listing) Behind(topic string, partition int32, next int64) (names []string) {
	for _, f := range l.of(topic, partition) {
		if f.first < next && f.next <= next {
			names = append(names, f.name)
		}
	}
	return names
}

// Of says whether there is a file of the topic.
func (l Listing) Of(topic string) bool {
	for k := range l {
		if strings.HasPrefix(k, topic+"-") {
			return true
		}
	}
	return false
}

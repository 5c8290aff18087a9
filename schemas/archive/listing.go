package archive

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"tandem/schemas/blob"
)

// Listing is a tenant's event files, by partition and by the offset that the manifest of each begins at, as their names say, for checks against the ends of chains.
type Listing map[string]map[int64]string

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
		first, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil {
			continue
		}
		if l[m[1]] == nil {
			l[m[1]] = map[int64]string{}
		}
		l[m[1]][first] = name
	}
	return l, nil
}

var fileName = regexp.MustCompile(`^(.+-\d+)-(\d{20})(?:-\d{20})?-\d+\.parquet$`)

// Beyond names an event file of a partition that begins behind the end of its chain: the manifests between are gone, since an archiver
// writes files of the next manifest only. It is "" if there is none.
func (l Listing) Beyond(topic string, partition int32, end int64) string {
	files, least := l[fmt.Sprintf("%s-%d", topic, partition)], int64(-1)
	for first := range files {
		if first > end && (least < 0 || first < least) {
			least = first
		}
	}
	return files[least]
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

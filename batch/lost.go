package batch

import (
	"fmt"
	"maps"
	"slices"
)

// whole refuses an archive that ends before what coverage was made from: its manifests are gone, or its bucket was restored in
// part only. To go by it would write windows anew with fewer beacons than they stand with. Manifests are never deleted, so a
// chain that is whole ends no earlier than it ever did.
func (a *Archive) whole(tenant string, covered map[int64]*Covered) error {
	for _, w := range slices.Sorted(maps.Keys(covered)) {
		for _, name := range slices.Sorted(maps.Keys(covered[w].Inputs.Spans)) {
			spans := covered[w].Inputs.Spans[name]
			if len(spans) == 0 || spans[len(spans)-1].Next <= a.Ends[name] {
				continue
			}
			return fmt.Errorf("batch of %s: the archive of %s is known up to offset %d, but window %s was made from records up to %d: manifests are gone, and nothing is done without them; bring them back from a copy, or start tandem archive again, which archives from there on what Kafka still has (tandem archive verify says what is missing)",
				tenant, name, a.Ends[name], windowName(w), spans[len(spans)-1].Next)
		}
	}
	return nil
}

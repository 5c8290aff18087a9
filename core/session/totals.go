package session

// Totals are the session's running totals in the site scope, by slot of the chain; nil of an empty state. They are valid until
// the state changes.
func (s *State) Totals() []int64 {
	if s.Empty {
		return nil
	}
	return s.siteTotals()
}

package evidence

// Status is the word for an experiment's state.
type Status string

// The states.
const (
	Planned   Status = "planned"
	Running   Status = "running"
	Ended     Status = "ended"
	NoData    Status = "no data"
	SRM       Status = "SRM" // sample ratio mismatch: the traffic is not split as intended, so nothing else is to be believed
	Unhealthy Status = "unhealthy"
	Failing   Status = "guardrail failing"
)

const (
	// SplitAlpha is the p-value of the split below which an experiment is said to have a sample ratio mismatch.
	SplitAlpha = 0.001
	// SplitWarning is the one below which it is watched.
	SplitWarning = 0.01
	// SilentAlpha is how improbable a variation's silence must be to be told.
	SilentAlpha = 1e-6
)

// Signs is what the state of an experiment follows from.
type Signs struct {
	Started, Ended bool    // by its interval
	Recent         float64 // sessions of the last closed minutes, over all variations
	Sessions       float64 // since its start
	SplitP         float64 // running p-value of the split, 0 to 1
	Behind         bool    // minutes are closed late: of the last ones nothing is known
	Silent         bool    // a variation brings nothing (Silent)
	Broken         bool    // the break alarm of some guardrail
	Failing        bool    // some guardrail is worse than the control, with evidence
}

// Status is the one state that matters most, of all that hold.
func (s Signs) Status() Status {
	switch {
	case !s.Started:
		return Planned
	case s.Sessions == 0:
		return NoData
	case s.SplitP < SplitAlpha:
		return SRM
	case !s.Ended && (s.Recent == 0 || s.Behind):
		return NoData
	case s.Silent, s.Broken:
		return Unhealthy
	case s.Failing:
		return Failing
	case s.Ended:
		return Ended
	}
	return Running
}

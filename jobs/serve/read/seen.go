package read

import "tandem/core/metric"

// seen unites sketches by part, which come in the order of parts: only the part at hand takes the memory of a union.
type seen struct {
	parts []*metric.Sketch // nil: nobody
	union metric.Union
	at    int
}

// add adds an encoded sketch to a part. one is scratch.
func (s *seen) add(part int, sketch []byte, one *metric.Sketch) error {
	if part != s.at {
		s.turn(part)
	}
	return s.union.MergeBinary(sketch, one)
}

// turn puts the part at hand where it belongs and goes on with another.
func (s *seen) turn(part int) {
	if !s.union.Empty() {
		s.parts[s.at] = s.union.Sketch()
		s.union.Reset()
	}
	s.at = part
}

// all are the parts, after the last add.
func (s *seen) all() []*metric.Sketch {
	s.turn(0)
	return s.parts
}

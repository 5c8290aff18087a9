package worlds

import "slices"

// change makes one change that SPEC 10 says something about.
func (g *generator) change(c *config) {
	switch g.IntN(14) {
	case 0:
		g.session(c)
	case 1:
		g.limits(c)
		c.perMinute = pick(g, 1, 2, 3, 600)
	case 2:
		c.tags = g.tags()
	case 3:
		if len(c.tags) > 0 {
			t := &c.tags[g.IntN(len(c.tags))]
			t.values = some(g, 1, slices.Concat(t.values, []string{"tv"})...)
			slices.Sort(t.values)
			t.values = slices.Compact(t.values)
		}
	case 4:
		g.addPair(c)
	case 5:
		if len(c.cross) > 0 {
			i := g.IntN(len(c.cross))
			c.cross = slices.Delete(c.cross, i, i+1)
		}
	case 6, 7, 8:
		g.changePoint(c)
	default:
		g.changeExperiment(c)
	}
}

func (g *generator) changePoint(c *config) {
	name := pick(g, pointNames...)
	if len(c.points) > 0 && g.chance(80) {
		name = pick(g, c.points...).name
	}
	at := slices.IndexFunc(c.points, func(p point) bool { return p.name == name })
	if at < 0 {
		c.points = append(c.points, g.point(name))
		return
	}
	p := &c.points[at]
	switch g.IntN(8) {
	case 0, 6:
		c.points = slices.Delete(c.points, at, at+1)
	case 1:
		p.page = !p.page
	case 2:
		p.stats = !p.stats
	default:
		name := pick(g, "rev", "n")
		k := slices.IndexFunc(p.values, func(v value) bool { return v.name == name })
		switch {
		case k < 0:
			p.values = append(p.values, g.value(p.name, name))
		case g.chance(30):
			p.values = slices.Delete(p.values, k, k+1)
		default:
			p.values[k] = g.value(p.name, name)
		}
	}
}

func (g *generator) changeExperiment(c *config) {
	name := pick(g, "x", "y", "z")
	if len(c.experiments) > 0 && g.chance(80) {
		name = pick(g, c.experiments...).name
	}
	at := slices.IndexFunc(c.experiments, func(x experiment) bool { return x.name == name })
	if at < 0 {
		c.experiments = append(c.experiments, g.experiment(name))
		return
	}
	x := &c.experiments[at]
	switch g.IntN(8) {
	case 0:
		c.experiments = slices.Delete(c.experiments, at, at+1)
	case 1:
		x.qualify = g.qualify()
	case 2:
		x.start = g.edge()
		if x.end != 0 {
			x.end = max(x.end, x.start+minute)
		}
	case 3, 4:
		x.end = 0
		if g.chance(70) {
			x.end = max(pick(g, g.edge(), c.from, c.from, c.from-minute, c.from+minute, c.from+2*minute), x.start+minute)
		}
	default:
		v := pick(g, variationNames...)
		if k := slices.Index(x.variations, v); k < 0 {
			x.variations = append(x.variations, v)
		} else if len(x.variations) > 1 {
			x.variations = slices.Delete(x.variations, k, k+1)
		}
	}
}

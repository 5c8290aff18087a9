package prom

import (
	"strings"
)

// A metric's name is that of the store with its scope, made fit for Prometheus: a dot is a colon, so site.home_page.beta is
// site:home_page:beta. Names (SPEC 10) may hold a hyphen, and pairs have an asterisk; these are ::m and ::x (minus, times):
// fm.order.revenue*item-page is fm:order:revenue::xitem::mpage. No part of a name is empty, so two colons in a row always
// begin one of these, unless a dot is before them: the mapping can be undone, and no two metrics share a name.
//
// Labels are experiment, variation and the tenant's tags. A tag keeps its name where that is a label that nothing else has;
// else it is tag_NAME, with __ for an underscore and _d for a hyphen (dash).

var toMetric = strings.NewReplacer(".", ":", "-", "::m", "*", "::x")

// MetricName is the Prometheus name of a metric as the store has it, "fm.order.revenue".
func MetricName(stored string) string { return toMetric.Replace(stored) }

const (
	labelExperiment = "experiment"
	labelVariation  = "variation"
	labelSource     = "source"
	labelOver       = "over"
)

// FormulaName is the Prometheus name of a formula.
func FormulaName(id string) string { return "formula:" + id }

// reserved are label names that no tag may have: ours, and those that Prometheus or Grafana give a meaning.
var reserved = []string{labelExperiment, labelVariation, labelSource, labelOver, "formula", "le", "quantile", "job", "instance"}

var toTag = strings.NewReplacer("_", "__", "-", "_d")

// TagLabel is the label of a tag.
func TagLabel(tag string) string {
	plain := !strings.HasPrefix(tag, "tag_") && !strings.HasPrefix(tag, "__") && !strings.Contains(tag, "-") && (tag[0] < '0' || tag[0] > '9')
	for _, r := range reserved {
		plain = plain && tag != r
	}
	if plain {
		return tag
	}
	return "tag_" + toTag.Replace(tag)
}

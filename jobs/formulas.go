package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"tandem/core/formula"
	"tandem/jobs/serve/judge"
	"tandem/jobs/serve/sums"
	"tandem/jobs/site"
)

const formulasUsage = `usage: tandem formulas check [--config C.yaml] FORMULAS.yaml

Checks a tenant's formula repository: errors with file and line. With --config, a tenant config or a folder of its
revisions, also that all metrics it names are measured, and which of its guardrails and primary formulas are for charts only:
of these no page says that they are worse, or better. Something can be proven of what comes per session (over visit.beta):
POINT.beta, a POINT with stats, a value with a cap; and of the ratio of two of the latter that are listed under cross.

example:
  tandem formulas check --config shop.yaml shop.formulas.yaml

`

// runFormulas is `tandem formulas`.
func runFormulas(_ context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("formulas", flag.ContinueOnError)
	config := flags.String("config", "", "tenant config: a `file`, or a folder of revisions")
	rest, code, over := parse(flags, formulasUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) != 2 || rest[0] != "check":
		return wrongUsage(stderr, "formulas", "there is tandem formulas check FILE")
	}
	r, drawn, err := checkFormulas(rest[1], *config)
	if err != nil {
		return failed(stderr, "formulas", err)
	}
	fmt.Fprintf(stdout, "%s: %s of tenant %s\n", rest[1], count(len(r.Formulas), "formula"), r.Tenant)
	for _, f := range drawn {
		fmt.Fprintf(stdout, "%s: %s is of role %s, and for charts only: nothing can be proven of it\n", f.Where(), f.ID, f.Role)
	}
	return 0
}

// checkFormulas reads a repository; drawn are its formulas that somebody waits for proofs of, and of which nothing can be proven.
func checkFormulas(file, config string) (r *formula.Repository, drawn []*formula.Formula, err error) {
	data, err := readFormulas(file)
	if err != nil {
		return nil, nil, err
	}
	r, err = formula.Load(file, data)
	if err != nil || config == "" {
		return r, nil, err
	}
	chain, err := site.LoadChain(config)
	if err != nil {
		return nil, nil, err
	}
	if chain.Tenant != r.Tenant {
		return nil, nil, fmt.Errorf("%s is of tenant %q, %s of %q", file, r.Tenant, config, chain.Tenant)
	}
	schema, last := sums.SchemaOf(chain), sums.SchemaAt(chain, len(chain.Revs)-1)
	var faults []error
	for _, f := range r.Formulas {
		c, err := r.Compile(formula.NewPlan(schema), formula.Ask{ID: f.ID})
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", f.Where(), err))
			continue
		}
		scope, _, _ := strings.Cut(c.Shape.Denominator, ".")
		if (f.Role == "guardrail" || f.Role == "primary") && judge.Of(c.Shape, scope, last, f.Minimum) == nil {
			drawn = append(drawn, f)
		}
	}
	return r, drawn, errors.Join(faults...)
}

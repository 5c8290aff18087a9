package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"tandem/core/formula"
	"tandem/jobs/serve/sums"
	"tandem/jobs/site"
)

const formulasUsage = `usage: tandem formulas check [--config C.yaml] FORMULAS.yaml

Checks a tenant's formula repository: errors with file and line. With --config, a tenant config or a folder of its
revisions, also that all metrics it names are measured.

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
	r, err := checkFormulas(rest[1], *config)
	if err != nil {
		return failed(stderr, "formulas", err)
	}
	fmt.Fprintf(stdout, "%s: %s of tenant %s\n", rest[1], count(len(r.Formulas), "formula"), r.Tenant)
	return 0
}

func checkFormulas(file, config string) (*formula.Repository, error) {
	data, err := readFormulas(file)
	if err != nil {
		return nil, err
	}
	r, err := formula.Load(file, data)
	if err != nil || config == "" {
		return r, err
	}
	chain, err := site.LoadChain(config)
	if err != nil {
		return nil, err
	}
	if chain.Tenant != r.Tenant {
		return nil, fmt.Errorf("%s is of tenant %q, %s of %q", file, r.Tenant, config, chain.Tenant)
	}
	schema := sums.SchemaOf(chain)
	var faults []error
	for _, f := range r.Formulas {
		if _, err := r.Compile(formula.NewPlan(schema), formula.Ask{ID: f.ID}); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", f.Where(), err))
		}
	}
	return r, errors.Join(faults...)
}

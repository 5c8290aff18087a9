package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"tandem/jobs/site"
	"tandem/schemas/store/both"
)

// auditStores is `tandem audit --stores`.
func auditStores(ctx context.Context, file, name string, from, to int64, stdout, stderr io.Writer) int {
	faults, err := compareStores(ctx, file, name, from, to, stdout)
	switch {
	case err != nil:
		return failed(stderr, "audit", err)
	case faults > 0:
		return 1
	}
	return 0
}

func compareStores(ctx context.Context, file, name string, from, to int64, stdout io.Writer) (faults int64, err error) {
	s, err := site.Load(file)
	if err != nil {
		return 0, err
	}
	st, err := s.OpenStore(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	two, ok := st.(*both.Store)
	if !ok {
		return 0, fmt.Errorf("%s: there is no second_store to compare with", file)
	}
	found := false
	for i := range s.Tenants {
		tenant := s.Tenants[i].Chain.Tenant
		if name != "" && tenant != name {
			continue
		}
		found = true
		r, err := both.Compare(ctx, two.Store, two.Other, tenant, from, to)
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(stdout, "%s: %d equal, %d differ, %d only where readers look, %d only in the other\n", tenant, r.Equal, r.Differ, r.OnlyFirst, r.OnlySecond)
		for _, d := range r.Examples {
			fmt.Fprintf(stdout, "  %s, %s: %s\n", d.What, d.Key, d.Detail)
		}
		faults += r.Faults()
	}
	if !found {
		return 0, fmt.Errorf("%s has no tenant %q", file, name)
	}
	return faults, nil
}

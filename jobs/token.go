package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"tandem/jobs/serve"
)

const tokenUsage = `usage: tandem token new --name NAME --tenants T,...|* [--role read|admin] [--days 90]

Makes a token for tandem serve: the token itself goes to standard error, to be handed to whoever will use it, and is kept
nowhere; its entry of the tokens file, which has only a hash of it, to standard output. A tokens file is the line "tokens:"
with such entries under it.

example:
  (echo tokens: && tandem token new --name grafana --tenants shop) > tokens.yaml

`

// maxTokenDays is the longest life of a token.
const maxTokenDays = 3_650

// runToken is `tandem token`.
func runToken(_ context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("token", flag.ContinueOnError)
	name := flags.String("name", "", "`name` of the token in logs; required")
	tenants := flags.String("tenants", "", "`tenants` that it may see, by commas, or *; required")
	role := flags.String("role", serve.RoleRead, "read or admin")
	days := flags.Int("days", 90, "how many days it is good for, 1 to 3650")
	rest, code, over := parse(flags, tokenUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) != 1 || rest[0] != "new":
		return wrongUsage(stderr, "token", "there is tandem token new")
	case *name == "" || *tenants == "":
		return wrongUsage(stderr, "token", "--name and --tenants are needed")
	case *days < 1 || *days > maxTokenDays:
		return wrongUsage(stderr, "token", "--days %d is not in 1 to %d", *days, maxTokenDays)
	}
	token, entry, err := serve.NewToken(*name, strings.Split(*tenants, ","), *role, time.Now().AddDate(0, 0, *days))
	if err != nil {
		return failed(stderr, "token", err)
	}
	fmt.Fprint(stdout, entry)
	fmt.Fprintln(stderr, token)
	return 0
}

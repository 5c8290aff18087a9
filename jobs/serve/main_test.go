package serve

import (
	"testing"

	"tandem/scripts/devstack"
)

func TestMain(m *testing.M) { devstack.Main(m) }

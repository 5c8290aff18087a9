package sessionize

import (
	"testing"

	"tandem/scripts/devstack"
)

func TestMain(m *testing.M) { devstack.Main(m) }

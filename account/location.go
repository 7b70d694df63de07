package account

import "strings"

// DefaultLocation is the location of an account created without one.
const DefaultLocation = "westeurope"

// locations are the regions in which customer-managed keys are offered, as
// their documentation lists them.
var locations = map[string]bool{
	"australiacentral":   true,
	"australiacentral2":  true,
	"australiaeast":      true,
	"australiasoutheast": true,
	"brazilsouth":        true,
	"brazilsoutheast":    true,
	"canadacentral":      true,
	"canadaeast":         true,
	"centralindia":       true,
	"centralus":          true,
	"eastasia":           true,
	"eastus":             true,
	"eastus2":            true,
	"francecentral":      true,
	"germanynorth":       true,
	"germanywestcentral": true,
	"israelcentral":      true,
	"italynorth":         true,
	"japaneast":          true,
	"japanwest":          true,
	"koreacentral":       true,
	"koreasouth":         true,
	"northcentralus":     true,
	"northeurope":        true,
	"norwayeast":         true,
	"norwaywest":         true,
	"qatarcentral":       true,
	"southafricanorth":   true,
	"southcentralus":     true,
	"southindia":         true,
	"southeastasia":      true,
	"spaincentral":       true,
	"swedencentral":      true,
	"switzerlandnorth":   true,
	"switzerlandwest":    true,
	"uaecentral":         true,
	"uaenorth":           true,
	"uksouth":            true,
	"ukwest":             true,
	"usgovarizona":       true,
	"usgovtexas":         true,
	"usgovvirginia":      true,
	"westeurope":         true,
	"westus":             true,
	"westus2":            true,
	"westus3":            true,
}

// NormalizeLocation turns "West Europe" into "westeurope" and refuses a
// location that no region has.
func NormalizeLocation(s string) (string, error) {
	n := foldLocation(s)
	if !locations[n] {
		return "", failf(ErrInvalid, "%q is not a location in which customer-managed keys are supported (try %q)", s, "West Europe")
	}
	return n, nil
}

// foldLocation makes both spellings of a region one.
func foldLocation(s string) string {
	return strings.ToLower(strings.Join(strings.Fields(s), ""))
}

package drill

import (
	"fmt"
	"slices"
	"strings"
)

// Catalogue returns all drills, by theme.
func Catalogue() []Drill {
	return slices.Concat(networkDrills(), vaultDrills(), tokenDrills(), processDrills(), diskDrills())
}

// Choose returns the drills that are named, in the catalogue's order; "all" names
// every one.
func Choose(names []string) ([]Drill, error) {
	all := Catalogue()
	var chosen []Drill
	for _, d := range all {
		if slices.Contains(names, "all") || slices.Contains(names, d.Name) {
			chosen = append(chosen, d)
		}
	}
	for _, n := range names {
		if n != "all" && !slices.ContainsFunc(all, func(d Drill) bool { return d.Name == n }) {
			return nil, fmt.Errorf("there is no drill %q%s", n, like(all, n))
		}
	}
	return chosen, nil
}

// like names drills that have a word of the name.
func like(all []Drill, name string) string {
	var near []string
	for _, d := range all {
		for word := range strings.SplitSeq(name, "-") {
			if len(word) > 3 && strings.Contains(d.Name, word) && !slices.Contains(near, d.Name) {
				near = append(near, d.Name)
			}
		}
	}
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(near[:min(3, len(near))], ", ") + "?"
}

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// The accounts compared: control has the same kind of key as platform, so what
// differs between these two is chance.
const (
	platform = "platform"
	control  = "control"
	token    = "token"
	vault    = "vault"
)

// keyed is one account with a mounted volume.
type keyed struct {
	name   string
	key    []string   // flags of `account update`, none for a platform-managed key
	others [][]string // flags of `account rekey` for the keys it goes through
	turns  int
}

const (
	// keyCheck is sixty times as often as by default.
	keyCheck = time.Second
	// rekeyAfter lets the workloads begin.
	rekeyAfter = 3 * time.Second
)

// measureKeys has the same workloads on volumes of the same daemon whose keys
// have different sources, in turns. Keys are checked every second meanwhile, and
// changed while the workloads run.
func (b *bench) measureKeys() error {
	accounts, err := b.keyedAccounts()
	if err != nil {
		return err
	}
	b.State = filepath.Join(b.disk, "state")
	daemon, err := b.Serve()
	if err != nil {
		return err
	}
	defer daemon.Stop() // unmounts
	for _, a := range accounts {
		if err := os.Mkdir(b.Path("mnt-"+a.name), 0o700); err != nil {
			return err
		}
		in := []string{"--account", a.name}
		for _, args := range [][]string{
			{"account", "create", "--name", a.name},
			append(append([]string{"account", "update", "--check-interval", keyCheck.String(), "--check-interval-unhealthy", "500ms"}, in...), a.key...),
			append([]string{"volume", "create", "--name", "v"}, in...),
			append([]string{"volume", "mount", "v", b.Path("mnt-" + a.name)}, in...),
		} {
			if _, err := b.Cmkfs(args...); err != nil {
				return err
			}
		}
	}
	for rep := range b.options.reps {
		for _, group := range b.options.groups {
			for i := range accounts {
				a := accounts[(i+rep)%len(accounts)]
				if rep%2 == 1 {
					a = accounts[(len(accounts)-1-i+rep)%len(accounts)]
				}
				b.Say("repetition %d of %d: %s on %s", rep+1, b.options.reps, group, a.name)
				t := &turn{group: group, dir: b.State, mount: b.Path("mnt-" + a.name), daemon: daemon, lasting: true}
				if err := b.keyedTurn(a, t); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// keyedAccounts makes the keys.
func (b *bench) keyedAccounts() ([]*keyed, error) {
	uri, err := b.MakeToken()
	if err != nil {
		return nil, err
	}
	other, err := b.AddTokenKey("other")
	if err != nil {
		return nil, err
	}
	v, err := b.StartVault()
	if err != nil {
		return nil, err
	}
	if err := v.Control("create", "other"); err != nil {
		return nil, err
	}
	return []*keyed{
		{name: platform}, {name: control},
		{name: token, key: []string{"--pkcs11-uri", uri}, others: [][]string{{"--pkcs11-uri", other}, {"--pkcs11-uri", uri}}},
		{name: vault, key: v.KeyFlags(), others: [][]string{{"--key-name", "other"}, {"--key-name", "cmk"}}},
	}, nil
}

// keyedTurn runs the workloads on one account's volume, and changes its key in
// the middle.
func (b *bench) keyedTurn(a *keyed, t *turn) error {
	changed := make(chan error, 1)
	if len(a.others) > 0 {
		go func() {
			time.Sleep(rekeyAfter)
			_, err := b.Cmkfs(append([]string{"account", "rekey", "--account", a.name}, a.others[a.turns%len(a.others)]...)...)
			changed <- err
		}()
	} else {
		changed <- nil
	}
	samples, failed := b.workloads(rival{name: a.name}, t, hangLimit)
	err := <-changed
	a.turns++
	if err != nil {
		err = fmt.Errorf("changing the key of %s under load: %w", a.name, err)
	}
	if failed != "" {
		err = errors.Join(err, fmt.Errorf("%s on %s: %s", t.group, a.name, failed))
	}
	b.results.add(a.name, t.group, samples, failed)
	return errors.Join(err, b.save(samples))
}

// gains are those of one account over platform, repetition by repetition.
func gains(unit string, mine, other []float64) (all []float64) {
	for i := range min(len(mine), len(other)) {
		if g := gain(unit, summarize(mine[i:i+1]), summarize(other[i:i+1])); g > 0 {
			all = append(all, g)
		}
	}
	return all
}

// compareKeys shows each account's gain over platform: the median of the
// repetitions' and, in brackets, the smallest and largest.
func compareKeys(values map[rowID]map[string][]float64, units map[rowID]string) string {
	t := plainTable()
	t.AppendHeader(table.Row{"workload", "unit", platform, control + " x", token + " x", vault + " x"})
	all := map[string][]float64{}
	for _, id := range slices.SortedFunc(maps.Keys(values), func(a, b rowID) int {
		return strings.Compare(a.workload+a.metric, b.workload+b.metric)
	}) {
		base := values[id][platform]
		if strings.HasPrefix(id.metric, "daemon_") || len(base) == 0 {
			continue // the daemon is one for all
		}
		line := table.Row{id.workload + " " + id.metric, units[id], show(summarize(base).Median)}
		for _, name := range []string{control, token, vault} {
			g := gains(units[id], values[id][name], base)
			if len(g) == 0 {
				line = append(line, "-")
				continue
			}
			f := summarize(g)
			line = append(line, fmt.Sprintf("%.2f [%.2f-%.2f]", f.Median, f.Min, f.Max))
			all[name] = append(all[name], f.Median)
		}
		t.AppendRow(line)
	}
	last := table.Row{"median of all", "", ""}
	for _, name := range []string{control, token, vault} {
		if len(all[name]) == 0 {
			return "nothing was measured\n"
		}
		f := summarize(all[name])
		last = append(last, fmt.Sprintf("%.2f [%.2f-%.2f]", f.Median, f.Min, f.Max))
	}
	t.AppendRow(last)
	return "\nGain over a platform-managed key, above 1 is better; control is another platform-managed key, so its\n" +
		"spread is chance. Keys were checked every second and changed once in each turn.\n\n" + t.Render() + "\n"
}

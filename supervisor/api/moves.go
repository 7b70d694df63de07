package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// The results of a volume in a rotation or transition.
const (
	MoveDone   = "moved"     // its key is under the new account key now
	MoveThere  = "unchanged" // it was already
	MoveApart  = "apart"     // it is under a key of another source, which is not meant
	MoveFailed = "failed"
)

// MovedVolume is one volume of a rotation or transition.
type MovedVolume struct {
	Name      string `json:"name"`
	Result    string `json:"result"`
	KeySource string `json:"keySource"`
	Error     string `json:"error,omitempty"` // one sentence
	Done      int    `json:"done"`            // volumes so far, this one included
	Total     int    `json:"total"`           // of so many
}

// KeyMoved is what a rotation or transition did.
type KeyMoved struct {
	Account   string        `json:"account"`
	Operation string        `json:"operation"` // rotate-key, transition-to-cmk
	KeySource string        `json:"keySource"` // of the key that volumes are under now
	KeyID     string        `json:"keyId"`
	Done      int           `json:"done"`
	Total     int           `json:"total"`
	Volumes   []MovedVolume `json:"volumes"`
}

// MoveLine is one line of the answer to a rotation or transition: a volume as
// soon as it is done, and at last the whole or an error. Exactly one is set.
type MoveLine struct {
	Volume *MovedVolume `json:"volume,omitempty"`
	Done   *KeyMoved    `json:"done,omitempty"`
	Error  *Error       `json:"error,omitempty"`
}

// RotateKey gives an account a new account encryption key; progress, which may
// be nil, is told of each volume as it is done.
func (c *Client) RotateKey(ctx context.Context, name string, progress func(MovedVolume)) (KeyMoved, error) {
	return c.move(ctx, accountPath(name)+"/rotate-key", progress)
}

// TransitionToCMK takes an account's volumes under the customer's key.
func (c *Client) TransitionToCMK(ctx context.Context, name string, progress func(MovedVolume)) (KeyMoved, error) {
	return c.move(ctx, accountPath(name)+"/transition-to-cmk", progress)
}

func (c *Client) move(ctx context.Context, path string, progress func(MovedVolume)) (KeyMoved, error) {
	body, err := c.open(ctx, http.MethodPost, path, nil)
	if err != nil {
		return KeyMoved{}, err
	}
	defer body.Close()
	lines := bufio.NewReader(body)
	for {
		b, err := lines.ReadBytes('\n')
		var line MoveLine
		if err == nil {
			err = json.Unmarshal(b, &line)
		}
		switch {
		case err != nil && errors.Is(err, io.EOF):
			return KeyMoved{}, Errorf(CodeFailed, "the daemon ended before it was done; it goes on when it runs again")
		case err != nil:
			return KeyMoved{}, brokenOff(err)
		case line.Error != nil:
			return KeyMoved{}, line.Error
		case line.Done != nil:
			return *line.Done, nil
		case line.Volume != nil && progress != nil:
			progress(*line.Volume)
		}
	}
}

// WriteMove answers a rotation or transition with its lines as they come. A
// client that is gone does not read them, which stops nothing.
func WriteMove(w http.ResponseWriter, move func(progress func(MovedVolume)) (KeyMoved, error)) {
	begun := false
	write := func(l MoveLine) {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		_ = json.NewEncoder(w).Encode(l)
		_ = http.NewResponseController(w).Flush()
	}
	done, err := move(func(v MovedVolume) { write(MoveLine{Volume: &v}) })
	switch {
	case err != nil && !begun:
		WriteError(w, err)
	case err != nil:
		write(MoveLine{Error: ErrorOf(err)})
	default:
		write(MoveLine{Done: &done})
	}
}

package supervisor

import (
	"bytes"
	"net/http"

	"cmkfs/fs"
	"cmkfs/supervisor/api"
)

// ReadRequest decodes the body of a command as the admin socket does.
func ReadRequest(body []byte, into any) error {
	r, err := http.NewRequest(http.MethodPost, "http://cmkfsd/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return read(r, into)
}

// ParseOptions is parseOptions.
func ParseOptions(options []string) (fs.MountConfig, error) { return parseOptions(options) }

// Bodies are what the commands of the admin socket have for a body.
var Bodies = map[string]func() any{
	"create-account": func() any { return new(api.CreateAccount) },
	"update-account": func() any { return new(api.UpdateAccount) },
	"key-operations": func() any { return new(api.KeyOperations) },
	"rekey":          func() any { return new(api.Rekey) },
	"create-volume":  func() any { return new(api.CreateVolume) },
	"mount":          func() any { return new(api.Mount) },
	"unmount":        func() any { return new(api.Unmount) },
}

# Sends what this shell starts from now on through weir's proxy, and makes it trust weir's CA:
#   source scripts/env/weir.fish
# The content is `weir env`'s; $WEIR names another binary, $WEIR_STATE_DIR another state directory. If weir fails, the
# shell stays as it was.
begin
    set -l weir weir
    set -q WEIR; and set weir $WEIR
    set -l state
    set -q WEIR_STATE_DIR; and set state --state-dir $WEIR_STATE_DIR
    set -l lines ($weir env $state --format fish)
    and string join \n -- $lines | source
end

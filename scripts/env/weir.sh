# shellcheck shell=sh
# Sends what this shell starts from now on through weir's proxy, and makes it trust weir's CA:
#   . scripts/env/weir.sh
# For sh, dash, bash, zsh, ksh. The content is `weir env`'s; $WEIR names another binary, $WEIR_STATE_DIR another state
# directory. If weir fails, the shell stays as it was.
if _weir_env=$("${WEIR:-weir}" env ${WEIR_STATE_DIR:+"--state-dir=$WEIR_STATE_DIR"} --format sh); then
  eval "$_weir_env"
  unset _weir_env
else
  unset _weir_env
  false
fi

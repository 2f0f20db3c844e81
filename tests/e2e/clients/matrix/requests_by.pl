# Usage: requests_by.pl BASE CA COUNT; CA "-": what the environment says.
use strict;
use warnings;
use LWP::UserAgent;
my ($base, $ca, $count) = @ARGV;
my %trust = $ca eq '-' ? () : (ssl_opts => { SSL_ca_file => $ca });
sub agent { return LWP::UserAgent->new(keep_alive => shift, env_proxy => 1, %trust) }
my $kept = agent(1);
for my $i (0 .. $count - 1) {
  my $agent = $i < $count / 2 ? $kept : agent(0);
  my $answer = $i % 2 ? $agent->post("$base/$i", Content => 'b' x $i) : $agent->get("$base/$i");
  die $answer->status_line unless $answer->is_success;
}

# Usage: requests_by.rb BASE CA COUNT; CA "-": what the environment says.
require 'net/http'
base, ca, count = ARGV[0], ARGV[1], ARGV[2].to_i
uri = URI(base)
connect = lambda do
  http = Net::HTTP.new(uri.host, uri.port)
  http.use_ssl = true
  http.ca_file = ca unless ca == '-'
  http.start
end
request = lambda do |http, i|
  made = i.odd? ? Net::HTTP::Post.new("#{uri.path}/#{i}") : Net::HTTP::Get.new("#{uri.path}/#{i}")
  made.body = 'b' * i if i.odd?
  raise 'not 200' unless http.request(made).code == '200'
end
kept = connect.call
(0...count / 2).each { |i| request.call(kept, i) }
kept.finish
(count / 2...count).each do |i|
  http = connect.call
  request.call(http, i)
  http.finish
end

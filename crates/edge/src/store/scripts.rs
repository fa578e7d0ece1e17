//! What Redis does for us, each in one step that nothing comes between.
//!
//! The clock is Redis' own, so that servers need not agree on theirs. Invariant: every key has an end, so that a store
//! that nobody asks is empty after a while. Needs Redis 5 or later.

use super::resp::command;

/// A script and its name, the SHA-1 of its text: that of a text that was changed and not named anew is none to Redis, and
/// nothing would be counted there.
#[derive(Debug)]
pub(crate) struct Script {
    pub(super) text: &'static str,
    sha1: &'static str,
}

/// Rates: nginx's arithmetic, as in [`crate::policy::limit`]. For each key: unit, rate, per, burst. All are taken or none;
/// returns which one refused (0: none) and after how many milliseconds it would not.
pub(crate) const TAKE: Script = Script {
    text: "local t=redis.call('TIME') local now=t[1]*1000+math.floor(t[2]/1000) local new={}
for i,key in ipairs(KEYS) do
local unit,rate,per,burst=tonumber(ARGV[i*4-3]),tonumber(ARGV[i*4-2]),tonumber(ARGV[i*4-1]),tonumber(ARGV[i*4])
local e,l=string.match(redis.call('GET',key) or '','^(%d+) (%d+)$') local excess,last=0,now
if e then e,l=tonumber(e),tonumber(l) local gone=math.min(math.max(now-l,0),86400000)
excess=math.max(math.min(e,burst)+unit-math.floor(rate*gone/per),0)
if excess>burst then return {i,math.ceil((excess-burst)*per/rate)} end
if gone==0 then last=math.min(l,now+1000) end end
new[i]={string.format('%.0f %.0f',excess,last),math.ceil((excess+unit)*per/rate)+1000} end
for i,key in ipairs(KEYS) do redis.call('SET',key,new[i][1],'PX',string.format('%.0f',new[i][2])) end
return {0,0}",
    sha1: "b586dc5769146446ec566c70877d8d0d9fbc83b2",
};

/// Lockouts, before an attempt. For each key two names, the lock and the failures; the most failures, then for each key how
/// many would be added. Returns which one refuses (0: none) and for how many milliseconds it is locked (0: not yet).
pub(crate) const LOOK: Script = Script {
    text: "for i=1,#KEYS,2 do local n=(i+1)/2 local left=redis.call('PTTL',KEYS[i])
if left>0 then return {n,left} end
if (tonumber(redis.call('GET',KEYS[i+1]) or '0') or 0)+tonumber(ARGV[n+1])>tonumber(ARGV[1]) then return {n,0} end end
return {0,0}",
    sha1: "01a497bd1b98b48079830631f998a3ebf1232474",
};

/// Lockouts, after a failure. The same names; the most failures, milliseconds within which they count, milliseconds of a
/// lock, then for each key how many and whether it is the address. An address that is locked by it counts alone.
/// Returns which ones are locked now.
pub(crate) const FAIL: Script = Script {
    text: "local out,alone={},false for i=1,#KEYS,2 do local n=(i+1)/2 local ip=ARGV[n*2+3]=='1'
if ip or not alone then local times=tonumber(ARGV[n*2+2]) local f=redis.call('INCRBY',KEYS[i+1],times)
if f<=times or redis.call('PTTL',KEYS[i+1])<0 then redis.call('PEXPIRE',KEYS[i+1],ARGV[2]) end
if f>=tonumber(ARGV[1]) then redis.call('SET',KEYS[i],'1','PX',ARGV[3]) redis.call('DEL',KEYS[i+1])
if ip then alone=true end out[#out+1]=n end end end
return out",
    sha1: "d629c6111af68f5bf0b79a64f0f2dae8bacc67dd",
};

/// What each connection makes known.
pub(super) const ALL: [Script; 3] = [TAKE, LOOK, FAIL];

impl Script {
    /// The command that runs it.
    pub(crate) fn run(&self, keys: &[String], arguments: &[u64]) -> Vec<u8> {
        let count = keys.len().to_string();
        let head = ["EVALSHA".to_owned(), self.sha1.to_owned(), count].into_iter();
        command(head.chain(keys.iter().cloned()).chain(arguments.iter().map(u64::to_string)))
    }
}

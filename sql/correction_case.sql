-- What reasons of earlier runs are judged by, once the interval [$interval_start, $interval_end) is known: one row per user
-- who had a reason before it and met something new in it. Never published; and since it knows the interval's outcomes,
-- nothing that is made from it counts before $interval_end.
--
-- earlier_reason and earlier_reason_prompt are reason and reason_prompt of intervals that ended at or before $interval_start; the
-- newest reason of each user counts. Outcomes are the latest $max_outcomes items that the user met for the first time, as
-- of the first event, liked as the latest rating says, or without one the latest event that says anything; where none does,
-- the item is no outcome. Where likes outnumber dislikes, each of the latest surplus likes is matched with an unmet item: the
-- nearest in popularity that the user never met, as not liked. Without them a reason would gain by praising everything.
--
-- Where like_level has a level of the user, it is the one at $interval_end: it counts the outcomes' own ratings too. Examples for
-- learning (alignment_example, reward_example) label by the level before the interval.
--
-- Every order ends in an id, so that no result depends on the order of the work.
with newest as (
    select user_id, as_of, prompt_key, reason, finish, logprob_sum, completion_tokens
    from (
        select
            user_id,
            as_of,
            prompt_key,
            reason,
            finish,
            logprob_sum,
            completion_tokens,
            row_number() over (partition by user_id order by as_of desc, prompt_key) as place
        from earlier_reason
        where kind = 'history' and reason is not null and as_of <= $interval_start
    )
    where place = 1
),
forecast as (
    select n.user_id, n.as_of, n.prompt_key, n.reason, n.finish, n.logprob_sum, n.completion_tokens
    from newest as n
    left semi join (
        select user_id
        from interaction
        where event_timestamp >= $interval_start and event_timestamp < $interval_end
        group by user_id
    ) as i on i.user_id = n.user_id
),
-- `liked` is null where an event without a rating says nothing of it. nullif changes nothing: without it DataFusion's plans
-- disagree whether it may be null.
known as (
    select
        i.user_id,
        i.item_id,
        i.event,
        i.rating,
        i.event_timestamp,
        nullif(
            coalesce(i.rating >= coalesce(f.level, cast($like_threshold as double)), event_liked(i.event)),
            cast(null as boolean)) as liked
    from (
        select f.user_id, l.level
        from like_level as l
        right join forecast as f on f.user_id = l.user_id
    ) as f
    join interaction as i on i.user_id = f.user_id
    where i.event_timestamp < $interval_end
),
met as (
    select user_id, item_id, min(event_timestamp) as first_timestamp
    from known
    group by user_id, item_id
),
fresh as (
    select
        m.user_id,
        m.item_id,
        m.first_timestamp as event_timestamp,
        nullif(
            coalesce(
                first_value(k.liked order by k.event_timestamp desc, k.event desc nulls last, k.rating desc)
                    filter (where k.rating is not null),
                first_value(k.liked order by k.event_timestamp desc, k.event desc nulls last, k.rating desc)
                    filter (where k.liked is not null)),
            cast(null as boolean)) as liked
    from met as m
    join known as k on k.user_id = m.user_id and k.item_id = m.item_id
    where m.first_timestamp >= $interval_start
    group by m.user_id, m.item_id, m.first_timestamp
),
outcome as (
    select user_id, item_id, event_timestamp, liked
    from (
        select
            user_id,
            item_id,
            event_timestamp,
            liked,
            row_number() over (partition by user_id order by event_timestamp desc, item_id) as place
        from fresh
        where liked is not null
    )
    where place <= $max_outcomes
),
surplus as (
    select user_id, item_id, event_timestamp
    from (
        select
            user_id,
            item_id,
            event_timestamp,
            liked,
            row_number() over (partition by user_id, liked order by event_timestamp desc, item_id) as place,
            sum(case when liked then 1 else -1 end) over (partition by user_id) as n_surplus
        from outcome
    )
    where liked and place <= n_surplus
),
popular as (
    select item_id, row_number() over (order by n, item_id) as place
    from (
        select item_id, count(*) as n
        from interaction
        where event_timestamp < $interval_end
        group by item_id
    )
),
unmet as (
    select user_id, item_id, event_timestamp
    from (
        select
            c.user_id,
            c.item_id,
            c.event_timestamp,
            row_number() over (
                partition by c.user_id, c.target_id
                order by c.distance, md5(concat(c.user_id, ' ', c.target_id, ' ', c.item_id)), c.item_id) as nearest
        from (
            select w.user_id, w.target_id, w.event_timestamp, p.item_id, abs(w.offset) as distance
            from (
                select
                    s.user_id,
                    s.item_id as target_id,
                    s.event_timestamp,
                    p.place,
                    unnest(make_array(-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9)) as offset
                from surplus as s
                join popular as p on p.item_id = s.item_id
            ) as w
            join popular as p on p.place = w.place + w.offset
        ) as c
        left anti join met as m on m.user_id = c.user_id and m.item_id = c.item_id
    )
    where nearest = 1
),
judged as (
    select
        user_id,
        array_agg(
            named_struct(
                'item_id', cast(item_id as varchar),
                'liked', liked,
                'event_timestamp', event_timestamp,
                'is_met', is_met)
            order by event_timestamp, item_id, is_met) as outcomes
    from (
        select user_id, item_id, liked, event_timestamp, true as is_met from outcome
        union all
        -- Two likes may be matched with one item.
        select user_id, item_id, false as liked, max(event_timestamp) as event_timestamp, false as is_met
        from unmet
        group by user_id, item_id
    )
    group by user_id
),
past as (
    select
        user_id,
        array_agg(
            named_struct('item_id', cast(item_id as varchar), 'liked', liked, 'event_timestamp', event_timestamp)
            order by place desc) as past
    from (
        select
            user_id,
            item_id,
            liked,
            event_timestamp,
            row_number() over (
                partition by user_id
                order by event_timestamp desc, item_id, event nulls last, rating nulls last) as place
        from known
        where liked is not null
    )
    where place <= $past_events
    group by user_id
)
select
    cast(f.user_id as varchar) as user_id,
    f.as_of as from_as_of,
    cast(f.prompt_key as varchar) as corrected_from,
    cast(f.reason as varchar) as reason,
    cast(f.finish as varchar) as finish,
    cast(f.logprob_sum as double) as logprob_sum,
    cast(f.completion_tokens as bigint) as completion_tokens,
    cast(p.subject as varchar) as subject,
    cast(p.verdict as varchar) as verdict,
    p.liked,
    p.disliked,
    p.related,
    p.attributes,
    -- Null in days that were published without them.
    coalesce(p.content, cast(make_array() as varchar[])) as content,
    coalesce(p.praise, cast(make_array() as varchar[])) as praise,
    coalesce(p.fault, cast(make_array() as varchar[])) as fault,
    coalesce(p.keywords, cast(make_array() as varchar[])) as keywords,
    h.past,
    j.outcomes
from forecast as f
join earlier_reason_prompt as p
    on p.user_id = f.user_id and p.as_of = f.as_of and p.prompt_key = f.prompt_key and p.kind = 'history'
join judged as j on j.user_id = f.user_id
join past as h on h.user_id = f.user_id
order by user_id
